"""The box office's cookie: what is in it, whom it convinces, and how long."""

import asyncio

import pytest

from service import sessions
from service.problems import HttpError
from service.sessions import GUESSES_AT_ONCE, LIFE_S, Sessions

TOKEN = "a-staff-token-for-the-tests"
NOW_S = 1_764_000_000


async def cookie_of(token: str = TOKEN) -> str:
    cookie = await Sessions(token).sign_in(token, NOW_S)
    assert cookie is not None
    return cookie


async def test_a_cookie_is_known_by_every_process_until_it_ends() -> None:
    cookie = await cookie_of()
    another_process = Sessions(TOKEN)
    assert another_process.knows(cookie, NOW_S)
    assert another_process.knows(cookie, NOW_S + LIFE_S - 1)
    assert not another_process.knows(cookie, NOW_S + LIFE_S)


async def test_a_cookie_tells_nothing_of_the_token() -> None:
    assert TOKEN not in await cookie_of()
    assert (await cookie_of()).startswith(f"{NOW_S + LIFE_S}.")


async def test_another_token_ends_all_sessions() -> None:
    assert not Sessions("another-token-of-16").knows(await cookie_of(), NOW_S)


async def test_a_cookie_that_was_touched_is_none() -> None:
    ends, _, signature = (await cookie_of()).partition(".")
    for forged in ("", ".", ends, f"{int(ends) + 1}.{signature}", f"{ends}.{signature[:-1]}0", f"{ends}.{'é' * 64}"):
        assert not Sessions(TOKEN).knows(forged, NOW_S), forged


async def test_a_guess_waits_and_only_so_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GUESS_PAUSE_S", 3600.0)
    door = Sessions(TOKEN)
    guesses = [asyncio.create_task(door.sign_in(f"guess {number}", NOW_S)) for number in range(GUESSES_AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(HttpError) as refused:
        await door.sign_in(TOKEN, NOW_S)
    assert refused.value.problem_code == "too_many_guesses"
    assert int(refused.value.headers["Retry-After"]) > 0
    for guess in guesses:
        guess.cancel()
    await asyncio.wait(guesses)
    assert await door.sign_in(TOKEN, NOW_S), "whoever gives up makes room"


async def test_a_wrong_token_gets_no_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GUESS_PAUSE_S", 0.0)
    for wrong in ("", "x", TOKEN[:-1], f"{TOKEN}x", "ü"):
        assert await Sessions(TOKEN).sign_in(wrong, NOW_S) is None
    assert await Sessions(TOKEN).sign_in(f" {TOKEN}\n", NOW_S), "copied with a space around it"
