"""Signals are handled only while training runs."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from telltune.training.callbacks import StopCallback
from telltune.training.processes import Processes


def asked(stop: StopCallback) -> bool:
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(None, None, control)
    assert control.should_save == control.should_training_stop
    return control.should_training_stop


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_the_first_is_noted_and_the_second_ends_it(
    number: int, error: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    stop = StopCallback(Processes())
    with stop.listening():
        assert not asked(stop)
        os.kill(os.getpid(), number)
        assert asked(stop)
        said = capfd.readouterr().err
        assert f"{signal.Signals(number).name}: stopping after this step" in said
        with pytest.raises(error):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    with pytest.raises(error) as left:
        stop.leave(3, 12)
    if error is SystemExit:
        assert left.value.code == 143


def test_without_a_signal_nothing_happens() -> None:
    stop = StopCallback(Processes())
    with stop.listening():
        assert not asked(stop)
    stop.leave(12, 12)


def test_another_thread_leaves_signals_as_they_are() -> None:
    before = signal.getsignal(signal.SIGINT)

    def listen() -> None:
        with StopCallback(Processes()).listening():
            assert signal.getsignal(signal.SIGINT) is before

    with ThreadPoolExecutor(1) as pool:
        pool.submit(listen).result(10)
