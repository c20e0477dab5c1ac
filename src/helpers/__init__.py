"""A notebook course on, and a reproduction of, Deep Residual Learning for Image Recognition (He et al. 2015)."""
