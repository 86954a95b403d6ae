"""One log, several places: JSONL (the truth), TensorBoard, W&B, the terminal."""

from logger.jsonl import read_metrics
from logger.logger import Logger, make_sinks
from logger.meters import MeanMeter, Rate

__all__ = ["Logger", "MeanMeter", "Rate", "make_sinks", "read_metrics"]
