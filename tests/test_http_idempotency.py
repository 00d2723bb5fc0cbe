"""Idempotency-Key: a client that asks again after a failure gets the same ticket, not a second one."""

import asyncio
import datetime
import itertools

import pytest
import redis.asyncio
from http_api import ASHA, ASHAS_PHONE, Api, fields_of, problem
from redis.asyncio import ConnectionPool

DAY_MS = 24 * 3_600_000
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}

pytestmark = pytest.mark.usefixtures("keys_left")


@pytest.fixture(params=["/v1/tickets", "/booktickets"])
def path(request: pytest.FixtureRequest) -> str:
    """Both routes that book."""
    return request.param


async def test_the_same_key_and_body_answer_the_same_ticket(api: Api, path: str) -> None:
    first = await api.post(path, json=ASHA, headers=KEY)
    again = await api.post(path, json=ASHA, headers=KEY)
    assert (first.status, again.status) == (201, 201)
    ticket = await first.json()
    assert await again.json() == ticket
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await api.seats(ticket["showtime"]))["booked"] == 1


async def test_the_same_wish_written_otherwise_is_the_same_body(api: Api, path: str) -> None:
    first = await (await api.post(path, json=ASHA, headers=KEY)).json()
    otherwise = {"timing": "18:00", "phone": "+919812345678", "name": " Asha Rao "}
    assert await (await api.post(path, json=otherwise, headers=KEY)).json() == first


@pytest.mark.parametrize("change", [{"name": "Bela"}, {"phone": "7654321"}, {"timing": "21:00"}])
async def test_the_same_key_with_another_body_is_422(api: Api, path: str, change: dict[str, str]) -> None:
    ticket = await (await api.post(path, json=ASHA, headers=KEY)).json()
    answer = await api.post(path, json={**ASHA, **change}, headers=KEY)
    told = await problem(answer, 422, "idempotency_key_reused")
    assert ticket["ticket_id"] not in str(told), "a stranger who guesses the key learns nothing"


async def test_many_at_once_with_one_key_book_one_ticket(api: Api, path: str) -> None:
    answers = await asyncio.gather(*(api.post(path, json=ASHA, headers=KEY) for _ in range(20)))
    assert {answer.status for answer in answers} == {201}
    ids = {(await answer.json())["ticket_id"] for answer in answers}
    assert len(ids) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 19


async def test_a_cancelled_ticket_s_key_books_nothing_new(api: Api, path: str) -> None:
    ticket = await (await api.post(path, json=ASHA, headers=KEY)).json()
    await api.delete(f"/v1/tickets/{ticket['ticket_id']}", headers=ASHAS_PHONE)
    await problem(await api.post(path, json=ASHA, headers=KEY), 409, "booking_cancelled")
    assert (await api.seats(ticket["showtime"]))["booked"] == 0


async def test_a_moved_ticket_s_key_answers_the_ticket_as_it_is_now(api: Api, path: str) -> None:
    ticket = await (await api.post(path, json=ASHA, headers=KEY)).json()
    await api.patch(f"/v1/tickets/{ticket['ticket_id']}", json={"timing": "21:00"}, headers=ASHAS_PHONE)
    again = await (await api.post(path, json=ASHA, headers=KEY)).json()
    assert (again["ticket_id"], again["timing"]) == (ticket["ticket_id"], "21:00")


async def test_an_expired_ticket_s_key_answers_that_it_has_expired(api: Api, path: str, pool: ConnectionPool) -> None:
    ticket = await (await api.post(path, json=ASHA, headers=KEY)).json()
    client = redis.asyncio.Redis(connection_pool=pool)
    await client.delete(f"{{main}}:ticket:{ticket['ticket_id']}")
    today = datetime.datetime.now(datetime.UTC).date()
    for day, hour in itertools.product(range(3), (15, 18, 21)):  # one of them was over lately, whatever the hour
        showtime = f"{today - datetime.timedelta(days=day):%Y%m%d}T{hour}00"
        await client.zadd(f"{{main}}:showtime:{showtime}:tickets", {ticket["ticket_id"]: 1})
        await client.pexpire(f"{{main}}:showtime:{showtime}:tickets", DAY_MS)
    await problem(await api.post(path, json=ASHA, headers=KEY), 410, "ticket_expired")


async def test_sold_out_is_not_remembered(api: Api, path: str) -> None:
    others = [await api.book() for _ in range(3)]
    await problem(await api.post(path, json=ASHA, headers=KEY), 409, "sold_out")
    await api.delete(f"/v1/tickets/{others[0]['ticket_id']}", headers=ASHAS_PHONE)
    assert (await api.post(path, json=ASHA, headers=KEY)).status == 201


@pytest.mark.parametrize("key", ["a", "~" * 255, "!#$%&'*+-.^_`|"])
async def test_a_key_is_any_visible_characters(api: Api, path: str, key: str) -> None:
    assert (await api.post(path, json=ASHA, headers={"Idempotency-Key": key})).status == 201


@pytest.mark.parametrize(
    ("key", "same"),
    [("8e03978e", '"8e03978e"'), ('say-"hi"', r'"say-\"hi\""'), ("a" * 255, f'"{"a" * 255}"'), ('"open', r'"\"open"')],
)
async def test_a_quoted_key_is_the_same_key(api: Api, path: str, key: str, same: str) -> None:
    first = await (await api.post(path, json=ASHA, headers={"Idempotency-Key": key})).json()
    again = await api.post(path, json=ASHA, headers={"Idempotency-Key": same})
    assert (await again.json(), again.headers["Idempotency-Replayed"]) == (first, "true")


async def test_two_keys_at_once_book_nothing(api: Api, path: str) -> None:
    answer = await api.post(path, json=ASHA, headers=[("Idempotency-Key", "one"), ("Idempotency-Key", "two")])
    assert fields_of(await problem(answer, 422, "invalid_input")) == ["Idempotency-Key"]


@pytest.mark.parametrize("key", ["", "a" * 256, "two words", "\u00fcber", '""', '"two words"', f'"{"a" * 256}"'])
async def test_a_key_that_is_none_books_nothing(api: Api, path: str, key: str) -> None:
    answer = await api.post(path, json=ASHA, headers={"Idempotency-Key": key})
    assert fields_of(await problem(answer, 422, "invalid_input")) == ["Idempotency-Key"]
    assert all(each["booked"] == 0 for each in (await (await api.get("/")).json())["showtimes"])


async def test_a_key_lives_a_day_and_is_stored_as_a_digest(api: Api, path: str, pool: ConnectionPool) -> None:
    await api.post(path, json=ASHA, headers=KEY)
    client = redis.asyncio.Redis(connection_pool=pool)
    [stored] = [key async for key in client.scan_iter(match="*idempotency*")]
    assert KEY["Idempotency-Key"].encode() not in stored
    assert DAY_MS - 60_000 < await client.pttl(stored) <= DAY_MS
    kept = await client.get(stored)
    assert b"Asha" not in kept
    assert b"98123" not in kept
