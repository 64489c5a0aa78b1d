"""The GPUs: a table as data, detection, occupancy, speed of light."""

from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import Occupancy, occupancy
from tilewright.gpu.speed_of_light import SpeedOfLight, speed_of_light
from tilewright.gpu.table import all_gpus, find_gpu

__all__ = ["Gpu", "Occupancy", "SpeedOfLight", "all_gpus", "find_gpu", "occupancy", "speed_of_light"]
