"""Object detection: boxes, what each prediction is to find, the loss, suppression and average precision."""

from dms_jax.detection.loss import detection_loss
from dms_jax.detection.suppression import Detections, detect

__all__ = ["Detections", "detect", "detection_loss"]
