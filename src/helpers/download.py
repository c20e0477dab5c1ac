"""Files from the network: resumed where a download broke off, from the first mirror that has them, checked by MD5."""

import errno
import hashlib
import http.client
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class DataError(RuntimeError):
    """The data set is missing, damaged, or cannot be fetched."""


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def fetch(urls: tuple[str, ...], target: Path, wanted: str, tries: int = 3, timeout: float = 30) -> Path:
    """Download `target` from the first of `urls` that has it, going on where an earlier attempt broke off.

    What is there already is taken if its MD5 is `wanted`, and replaced if not. Raises DataError if every address
    fails, and OSError if the disk does.
    """
    reasons = []
    if target.exists():
        if md5(target) == wanted:
            return target
        reasons.append(f"{target} is damaged or cut short")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for url in urls:
        for attempt in range(tries):
            try:
                continue_download(url, part, timeout)
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                reasons.append(f"{url}: {error}")
                time.sleep(min(attempt, 1))
                continue
            if md5(part) == wanted:
                return part.replace(target)
            reasons.append(f"{url}: wrong content")
            part.unlink()
            break
    raise DataError(
        f"could not download {target.name} ({'; '.join(dict.fromkeys(reasons))}): fetch it yourself from {urls[-1]}, "
        f"put it into {target.parent} and run this again"
    )


def continue_download(url: str, part: Path, timeout: float) -> None:
    """Append to `part` the bytes that it lacks. Raises OSError if the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or `part` is longer than the file: its MD5 will tell
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        start = file.tell()
        length = int(response.headers.get("Content-Length", 0))
        with tqdm(total=start + length, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar:
            while chunk := response.read(1 << 16):
                file.write(chunk)
                bar.update(len(chunk))
        if length and file.tell() < start + length:
            raise OSError(f"the connection broke off after {file.tell():,} of {start + length:,} bytes")


def unpack(archive: Path, root: Path) -> None:
    """Into `root`, each file whole or not at all: others may look for them meanwhile."""
    with tempfile.TemporaryDirectory(prefix="cifar-10-unpacking-", dir=root) as aside, tarfile.open(archive) as file:
        file.extractall(aside, filter="data")
        for path in Path(aside).rglob("*"):
            target = root / path.relative_to(aside)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
