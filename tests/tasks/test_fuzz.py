"""Noise in channels and in stored arguments: an error of ours, or what was meant, and nothing else."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from litestar_queues import PayloadError, wire
from litestar_queues.models import ErrorReport, Receipt
from litestar_queues.payload import CallCodec
from litestar_queues.redaction import Redactor, hides_result

COUNT = 500_000 if os.environ.get("LQ_LONG") else 20_000
RECEIPT = Receipt(1, 2, "default/1", 42, 3, 4)
FRAMES: list[Any] = [
    wire.Done(1, 2, '"result"', RECEIPT), wire.Failed(1, 2, "raised", ErrorReport("E", "m", "t"), RECEIPT),
    wire.Progress(1, 2, 3, 1.0, 2.0, 50.0, "half", "{}"), wire.Log(1, 2, 3, "info", "line", None, "stdout"),
    wire.Event(1, 2, 3, "type", "message", "{}"), wire.Ready(42), wire.Forked(1, 42), wire.Exited(1, 0, 1, 1),
    wire.ForkFailed(1, "no"), wire.Run(1, 2, UUID(int=1), "task", "queue", 1, "{}", 0, 0, 0, 100),
]  # fmt: skip


def noise(seeds: list[bytes]) -> Iterator[bytes]:
    """Yield random bytes, and true messages with flipped bits, cut short, doubled and spliced."""
    for _ in range(COUNT):
        base = bytearray(random.choice(seeds))
        match random.randrange(5):
            case 0:
                base = bytearray(random.randbytes(random.randrange(1, 60)))
            case 1:
                for _ in range(random.randrange(1, 4)):
                    base[random.randrange(len(base))] ^= 1 << random.randrange(8)
            case 2:
                base = base[: random.randrange(1, len(base) + 1)]
            case 3:
                base += random.choice(seeds)
            case _:
                at = random.randrange(len(base))
                base = base[:at] + bytearray(random.choice(seeds))[at:] or base
        yield bytes(base) or b"\0"


@pytest.mark.parametrize(
    "receive",
    [wire.receive_report, wire.receive_from_zygote, wire.receive_run, wire.receive_fork],
    ids=lambda f: f.__name__,
)
@pytest.mark.fault(
    "A14", "noise, flipped bits, halves and splices of true frames (fuzzed)", "a frame of ours, or FrameError"
)
@pytest.mark.fault("A16", "forged frames (fuzzed)", "a frame of ours, or FrameError")
def test_whatever_comes_through_a_channel_is_a_frame_or_a_frame_error(receive: Callable[[socket.socket], Any]) -> None:
    near, far = wire.pair()
    seeds = [msgspec.msgpack.encode(frame) for frame in FRAMES]
    taken = refused = 0
    with near, far:
        for message in noise(seeds):
            far.send(message)
            try:
                receive(near)
                taken += 1
            except wire.FrameError:
                refused += 1
    assert taken + refused == COUNT
    assert refused > COUNT / 2


@pytest.mark.fault("D15", "noise in stored arguments (fuzzed)", "the arguments, or PayloadError")
def test_whatever_stands_in_the_store_as_arguments_is_a_call_or_a_payload_error() -> None:
    def function(number: int, when: str = "", *more: float, **rest: list[int]) -> None: ...

    codec = CallCodec("t", function)
    calls = [((1,), {}), ((1, "x", 2.5), {"a": [1]}), ((10**15,), {"when": "é" * 20}), ((1, "\u2028", 1e300), {})]
    seeds = [codec.encode(args, kwargs).encode() for args, kwargs in calls]
    seeds += [seed[:-1] + b',"secret":[0,"when"]}' for seed in seeds]
    taken = refused = 0
    for message in noise(seeds):
        text = message.decode("utf-8", "surrogateescape")
        try:
            codec.decode(text)
            Redactor.of(text)
            taken += 1
        except PayloadError:
            refused += 1
    assert taken + refused == COUNT
    assert refused > COUNT / 3
    assert not hides_result(seeds[0].decode())


@pytest.mark.parametrize("number", [0, -1, 2**53, -(2**63), 2**63, 2**64, -(2**63) - 1, 10**400])
@pytest.mark.fault("D17", "whole numbers around and far past 2**63, in arguments", "come back as they are")
def test_a_large_number_comes_back_as_it_is(number: int) -> None:
    codec = CallCodec("t", lambda value: None)
    assert codec.decode(codec.encode((number,), {}))[0] == [number]


@pytest.mark.fault("D17", "a number of more digits than Python writes", "refused with the place")
def test_a_number_that_is_too_large_is_refused_with_its_place() -> None:
    codec = CallCodec("t", lambda value: None)
    with pytest.raises(PayloadError, match=r"t cannot be enqueued: value: .*4300 digits"):
        codec.encode((10**5000,), {})
