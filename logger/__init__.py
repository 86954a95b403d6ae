"""One log, several places: JSONL (the truth), TensorBoard, W&B, the terminal."""

from logger.jsonl import read_metrics
from logger.logger import Logger, make_sinks
from logger.meters import MeanMeter, Pace, Rate
from logger.sink import Status

__all__ = ["Logger", "MeanMeter", "Pace", "Rate", "Status", "make_sinks", "read_metrics"]
