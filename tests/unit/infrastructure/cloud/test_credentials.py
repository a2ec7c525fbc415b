"""Tokens that are renewed, certificates that are decoded."""

from __future__ import annotations

import asyncio
import base64

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud.credentials import RENEW_BEFORE_SECONDS, RenewedToken, Token, decode_ca


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def provider(clock: Clock, *, lives: float = 900) -> tuple[RenewedToken, list[int]]:
    fetched: list[int] = []

    def fetch() -> Token:
        fetched.append(1)
        return Token(f"t{len(fetched)}", clock.now + lives)

    return RenewedToken(fetch, clock=clock), fetched


async def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    clock = Clock()
    get, fetched = provider(clock)
    assert await get(False) == "t1"
    clock.now += 900 - RENEW_BEFORE_SECONDS - 1
    assert await get(False) == "t1"
    clock.now += 2
    assert await get(False) == "t2"
    assert len(fetched) == 2
    assert "t2" not in repr(get)


async def test_many_that_are_refused_at_once_renew_once() -> None:
    get, fetched = provider(Clock())
    await get(False)
    assert set(await asyncio.gather(*(get(True) for _ in range(20)))) == {"t2"}
    assert len(fetched) == 2


def test_a_provider_outlives_a_loop() -> None:
    get, fetched = provider(Clock())
    assert asyncio.run(get(False)) == asyncio.run(get(False)) == "t1"
    assert asyncio.run(get(True)) == "t2"
    assert len(fetched) == 2


def test_certificate_authorities() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
    assert decode_ca(base64.b64encode(pem.encode()).decode(), "c") == pem
    assert decode_ca(pem, "c") == pem
    assert decode_ca("", "c") is None
    for wrong in ("!!!", base64.b64encode(b"something else").decode(), base64.b64encode(b"\xff\xfe").decode()):
        with pytest.raises(ConfigurationError, match="certificate authority of c"):
            decode_ca(wrong, "c")
