"""Learning-rate schedules, one file a kind."""

from typing import TYPE_CHECKING

from modelzoo.base_config import union_of_kinds
from modelzoo.schedule.base import ScheduleConfig

if TYPE_CHECKING:
    AnySchedule = ScheduleConfig
else:
    AnySchedule = union_of_kinds("modelzoo.schedule", ScheduleConfig)
