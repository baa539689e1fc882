"""Public general data and tasks from a pip package, for use without network access."""

from telltune.data.embedded.general import embedded_general
from telltune.data.embedded.locate import data_folder
from telltune.data.embedded.task import EmbeddedTask
from telltune.data.embedded.tasks import embedded_task, embedded_tasks

__all__ = ["EmbeddedTask", "data_folder", "embedded_general", "embedded_task", "embedded_tasks"]
