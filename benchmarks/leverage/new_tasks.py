"""Write two tasks of smart home commands, made from another package's sentence templates.

Home Assistant's sentence templates (Apache-2.0) are filled in at random. `home_intent` asks for the
intent of a command, and `home_slots` for the intent and its slots as JSON. It needs the packages of
.venv-tasks:

    make .venv-tasks/.ready
    .venv-tasks/bin/python benchmarks/leverage/new_tasks.py runs/new_tasks
"""

from __future__ import annotations

import json
import random
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hassil.expression import (
    Alternative,
    ListReference,
    Permutation,
    RuleReference,
    TextChunk,
)
from hassil.intents import Intents, RangeSlotList, TextSlotList, WildcardSlotList
from hassil.util import normalize_whitespace

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEST, _DEV, _TRAIN = 300, 150, 1500
# Intents with enough sentences that no two splits share one.
_INTENTS = {
    "HassTurnOn": "turn on",
    "HassTurnOff": "turn off",
    "HassGetState": "ask state",
    "HassLightSet": "set light",
    "HassStartTimer": "start timer",
    "HassIncreaseTimer": "add to timer",
    "HassDecreaseTimer": "take from timer",
    "HassTimerStatus": "ask timer",
    "HassCancelTimer": "cancel timer",
    "HassSetVolume": "set volume",
    "HassSetVolumeRelative": "change volume",
    "HassClimateSetTemperature": "set temperature",
    "HassClimateGetTemperature": "ask temperature",
    "HassFanSetSpeed": "set fan",
    "HassSetPosition": "set cover",
    "HassMediaSearchAndPlay": "play media",
    "HassMediaNext": "next track",
    "HassShoppingListAddItem": "add to list",
    "HassShoppingListCompleteItem": "remove from list",
    "HassVacuumCleanArea": "clean room",
}
_WORDS = {
    "area": "kitchen,living room,bedroom,bathroom,hallway,garage,office,nursery,attic,cellar,"
    "dining room,guest room,laundry room,porch,study,playroom",
    "floor": "ground,first,second,upper,lower,top",
    "name": "desk lamp,ceiling light,heater,coffee machine,front door,washing machine,radio,"
    "garden hose,bedside lamp,television,dishwasher,air purifier,doorbell,oven,humidifier",
    "item": "milk,eggs,bread,light bulbs,coffee,olive oil,batteries,toilet paper,apples,rice,"
    "cat food,butter,tomatoes,dish soap,yogurt,flour,bananas,cheese,salt,pasta",
    "query": "yesterday,purple rain,the beatles,morning news,jazz classics,abbey road,hey jude,"
    "summer hits,moonlight sonata,the daily,thriller,bohemian rhapsody,piano music,nina simone",
    "timer": "pizza,tea,laundry,eggs,homework,nap,bread,workout",
    "command": "turn off the lights,open the blinds,lock the door,start the dishwasher",
}
_LISTS = {
    "shopping_list_item": "item",
    "todo_list_item": "item",
    "search_query": "query",
    "timer_name": "timer",
    "timer_command": "command",
}


class _Speaker:
    """Generator of random sentences from a template."""

    def __init__(self, intents: Intents, rng: random.Random) -> None:
        self.intents, self.rng = intents, rng
        self.slots: dict[str, str] = {}

    def say(self, expression: Any, rules: dict[str, Any]) -> str:
        """Return a sentence, and record in `slots` what its slots were filled with."""
        if isinstance(expression, TextChunk):
            return expression.original_text
        if isinstance(expression, RuleReference):
            return self.say(rules[expression.rule_name].expression, rules)
        if isinstance(expression, ListReference):
            return self._fill(expression, rules)
        if isinstance(expression, Alternative):
            return self.say(self.rng.choice(expression.items), rules)
        items = list(expression.items)
        if isinstance(expression, Permutation):
            self.rng.shuffle(items)
        return "".join(self.say(item, rules) for item in items)

    def _fill(self, reference: ListReference, rules: dict[str, Any]) -> str:
        name = reference.list_name
        values = self.intents.slot_lists.get(name)
        if name in _WORDS or name in _LISTS:
            said = self.rng.choice(_WORDS[_LISTS.get(name, name)].split(","))
        elif isinstance(values, RangeSlotList):
            said = str(self.rng.choice(range(values.start, values.stop + 1, values.step)))
        elif isinstance(values, TextSlotList):
            said = self.say(self.rng.choice(values.values).text_in, rules)
        else:
            assert values is None or isinstance(values, WildcardSlotList)
            raise KeyError(name)
        self.slots[reference.slot_name] = normalize_whitespace(said).strip()
        return said


def home_commands(rng: random.Random) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield commands without end: sentence, intent, slots."""
    path = files("home_assistant_intents") / "data" / "en.json"
    intents = Intents.from_dict(json.loads(path.read_text(encoding="utf-8")))
    while True:
        for key, label in _INTENTS.items():
            data = rng.choice(intents.intents[key].data)
            speaker = _Speaker(intents, rng)
            rules = {**intents.expansion_rules, **data.expansion_rules}
            try:
                said = speaker.say(rng.choice(data.sentences).expression, rules)
            except KeyError:  # a list that the home provides
                continue
            yield normalize_whitespace(said).strip(), label, speaker.slots


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write the three splits of a task."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = (_TEST, _TEST + _DEV, _TEST + _DEV + _TRAIN)
    for name, start, end in zip(("test", "dev", "train"), (0, *ends), ends, strict=False):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[start:end]]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(out: Path) -> None:
    """Write both tasks into a folder."""
    commands: dict[str, tuple[str, dict[str, str]]] = {}
    for said, label, slots in home_commands(random.Random("home")):
        commands.setdefault(said, (label, slots))
        if len(commands) == _TEST + _DEV + _TRAIN:
            break
    intent = [{"prompt": said, "completion": label} for said, (label, _) in commands.items()]
    slots = [
        {"prompt": said, "completion": json.dumps({"intent": label, **named})}
        for said, (label, named) in commands.items()
    ]
    write(out / "home_intent", intent)
    write(out / "home_slots", slots)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
