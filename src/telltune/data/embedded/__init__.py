"""Public data that come with `pip`, for a machine that is offline: general data and tasks."""

from telltune.data.embedded.general import embedded_general
from telltune.data.embedded.locate import data_folder
from telltune.data.embedded.task import EmbeddedTask
from telltune.data.embedded.tasks import embedded_task, embedded_tasks

__all__ = ["EmbeddedTask", "data_folder", "embedded_general", "embedded_task", "embedded_tasks"]
