"""A check for every exercise of the course: it says what is right, or names the likely mistake.

`check_<exercise>(your_answer)` returns a `Verdict`, which a notebook shows. A module for each chapter.
"""

from helpers.checks.cifar_networks import check_build, check_count, check_draw
from helpers.checks.claims import check_verdict
from helpers.checks.degradation import check_judge, check_make_identity, check_match_batch
from helpers.checks.detection import check_average_precision, check_freeze, check_iou
from helpers.checks.imagenet_networks import check_extra_cost, check_ten_crop_scores, check_ten_crops
from helpers.checks.layer_responses import check_layers, check_pooled
from helpers.checks.plain_vs_residual import check_lower, check_report
from helpers.checks.residual_block import check_block, check_gradient_by_hand, check_one_convolution
from helpers.checks.shortcuts import check_bottleneck, check_extra_parameters, check_option_a
from helpers.checks.signals import check_growth, check_variances
from helpers.checks.start_here import check_relu
from helpers.checks.training import check_step, check_view
from helpers.checks.verdict import Verdict, reveal
from helpers.checks.very_deep import check_gate, check_rate
from helpers.checks.what_matters import check_lesion, check_preactivation, check_weakened
