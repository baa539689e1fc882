"""The parts of transformers' trainer that training uses.

The trainer imports PEFT, and PEFT imports bitsandbytes, which takes seconds. PEFT is therefore
imported first, without bitsandbytes.
"""

from telltune.models import import_peft

import_peft()

from transformers import PrinterCallback as PrinterCallback  # noqa: E402
from transformers import Trainer as Trainer  # noqa: E402
from transformers import TrainerCallback as TrainerCallback  # noqa: E402
from transformers.trainer import OPTIMIZER_NAME as OPTIMIZER_NAME  # noqa: E402
from transformers.trainer import SCHEDULER_NAME as SCHEDULER_NAME  # noqa: E402
from transformers.trainer_utils import SaveStrategy as SaveStrategy  # noqa: E402
