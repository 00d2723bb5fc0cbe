"""The Lua scripts as texts: none changes by accident, each keeps its contract, the store reads every reply.

What the scripts do is shown in `test_store.py`; the rules they follow are told in `lua/README.md`.
"""

import inspect
import re

import pytest
import redis

from service import scripts, store
from service.scripts import ADMIT, BOOK, CANCEL, LUA_DIR, MOVE, Script
from service.store import Store

# Redis knows a script by this digest, and while a new version is rolled out both are in use on one database.
PINNED = {
    "admit": "e1470e7270e6f476e29b59554aab06d91ed50917",
    "availability": "6faf4509b5679b176bfc85d89092da5a300b20a5",
    "book": "d654497ad2b3df9bb082f08f4683087355dc236c",
    "cancel": "e6912ead3d122b2aa2a9618875636130a5820ffc",
    "mend_expiry": "921a9ef1e7ee12f25cc00dcbb3f70688451363bd",
    "mend_showtime": "f7bcbb9ec6dc57fe992b1bac85112871083922a9",
    "move": "5923c10317164b488387de4cb2bdf901b612eba7",
    "showtime_tickets": "e4be2cb4970d8baf9e358676c2df13b2ae72a06e",
    "showtime_zone": "9a14d1f50f2f5065f1950e963efc86617ed8a011",
    "ticket": "3150e9d895563723cbf08b52b99d2b584dd4c478",
}

# Commands whose one key is their first argument. One that a script needs besides takes its place here.
READS = {"EXISTS", "GET", "HGET", "HKEYS", "HMGET", "PEXPIRETIME", "ZCARD", "ZRANGE", "ZSCORE"}
WRITES = {"HDEL", "HSET", "PEXPIRE", "PEXPIREAT", "SET", "ZADD", "ZREM"}

# In each script that changes something, this very text; its calls name a key of KEYS and change nothing.
TOUCH = """\
local function touch(key)
  local expires_ms = redis.call('PEXPIRETIME', key)
  if expires_ms > 0 then
    redis.call('PEXPIREAT', key, expires_ms)
  end
end
"""

README = (LUA_DIR / "README.md").read_text(encoding="utf-8")

EVERY = (*scripts.ALL, *scripts.REPAIRS)
each_script = pytest.mark.parametrize("script", EVERY, ids=lambda script: script.name)


def header(script: Script) -> str:
    """The comment that the script begins with."""
    return re.match(r"(?:--.*\n)+", script.source)[0]


def section(script: Script, name: str) -> str:
    """The lines of the header under KEYS, ARGV or Replies."""
    found = re.search(rf"^-- {name}\n((?:--  .*\n)+)", header(script), re.MULTILINE)
    assert found, f"the header of lua/{script.name}.lua has no section {name}"
    return found[1]


def calls(script: Script) -> list[tuple[str, str]]:
    """Every command the script calls, in the order of the text, and the text of its first argument."""
    return re.findall(r"redis\.p?call\('(\w+)'(?:, *([^,)]*))?", code(script))


def code(script: Script) -> str:
    """The script without its comments, and without the function that all changes share."""
    return re.sub(r"--.*", "", script.source).replace(TOUCH, "")


@each_script
def test_no_script_changes_by_accident(script: Script) -> None:
    assert script.sha == PINNED[script.name], (
        f"lua/{script.name}.lua is no longer the script that was pinned. If that is meant, run the whole of "
        f"tests/test_store*.py, see that old and new may run side by side on one database, and pin it anew in "
        f'tests/test_scripts.py:\n    "{script.name}": "{script.sha}",'
    )


def test_every_file_is_loaded_and_every_loaded_script_is_a_file() -> None:
    assert sorted(script.name for script in EVERY) == sorted(path.stem for path in LUA_DIR.glob("*.lua"))
    assert sorted(PINNED) == sorted(script.name for script in EVERY)


def test_a_server_compiles_them_and_knows_them_by_our_digests(server_url: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        assert [client.script_load(script.source) for script in EVERY] == [script.sha for script in EVERY]


@each_script
def test_the_header_tells_keys_arguments_and_replies(script: Script) -> None:
    assert re.match(r"-- [A-Z][^\n]*\.", header(script)), "it begins with what the script does, in a sentence"
    for name in ("KEYS", "ARGV"):
        told = re.findall(r"^-- +(\d+|\d*…)  ", section(script, name), re.MULTILINE)
        used = re.findall(rf"\b{name}\[(\d+)\]", code(script))
        assert set(used) == {number for number in told if number.isdecimal()}, name
    assert section(script, "Replies")


@each_script
def test_every_key_comes_through_keys_and_none_is_built(script: Script) -> None:
    for command, argument in calls(script):
        if command == "TIME":
            continue
        assert command in READS | WRITES, f"{command} is new here: say in READS or WRITES what it does"
        assert re.fullmatch(r"KEYS\[\w+\]", argument), f"{command} {argument}: a key that is not one of KEYS"
    assert len(calls(script)) == len(re.findall(r"\bredis\b", code(script))), "a call that this test cannot read"


@each_script
def test_it_reads_then_checks_then_writes(script: Script) -> None:
    """Redis does not roll back: once something is written, nothing may be refused any more."""
    kinds = ["write" if command in WRITES else "read" for command, _ in calls(script)]
    assert kinds == sorted(kinds), "it reads after it has written"
    text = code(script)
    if "write" in kinds:
        first_write = re.search(rf"redis\.call\('(?:{'|'.join(WRITES)})'", text).start()
        assert len(re.findall(r"\breturn\b", text[first_write:])) == 1, "it may still refuse after it has written"


@each_script
def test_a_key_that_may_be_gone_is_not_used_again(script: Script) -> None:
    """A node of a cluster that is giving the slot away could not make it again, and the script would stop halfway."""
    removed: set[str] = set()
    for command, key in calls(script):
        assert key not in removed, f"{command} {key}, which the script may have removed"
        if command in {"DEL", "UNLINK", "ZREM"}:
            removed.add(key)


def told_words(script: Script) -> set[str]:
    """The status words among the replies of the header."""
    return set(re.findall(r"^--   \{'(\w+)'", section(script, "Replies"), re.MULTILINE))


@each_script
def test_every_reply_begins_with_a_status_word_and_the_header_tells_them_all(script: Script) -> None:
    text = code(script)
    returned = re.findall(r"\breturn\s+([^\n]*(?:\n\s+')?[^\n]*)", text)
    assert returned
    words = set()
    for value in returned:
        if value.strip() == "reply":
            # The reply was put together before: by `local reply = {'word', ...}` or by inserting the word in front.
            words.update(re.findall(r"(?:local reply = \{|insert\(reply, 1, )'(\w+)'", text))
        else:
            word = re.match(r"\{\s*'(\w+)'", value)
            assert word, f"a reply without a status word: {value}"
            words.add(word[1])
    assert words == told_words(script)


@pytest.mark.parametrize("script", [BOOK, MOVE, CANCEL, ADMIT], ids=lambda script: script.name)
def test_what_promises_has_written(script: Script) -> None:
    """WAIT waits for what its own connection has written: a repeat that wrote nothing would wait for nothing."""
    assert script.source.count(TOUCH) == 1
    assert script.refusals < {word.encode() for word in told_words(script)}
    *before, (last, _) = re.findall(r"(touch\(KEYS\[\d\]\)\n(?:  local [^\n]*\n)?)?\s*return \{'(\w+)'", code(script))
    for touched, word in before:
        assert bool(touched) == (word.encode() not in script.refusals), word
    assert last == "", "the last return stands after the writes"


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_one_method_of_the_store_runs_it_and_every_status_word_is_read(script: Script) -> None:
    name = script.name.upper()
    members = (*vars(Store).values(), *vars(store).values())  # its methods, and the functions beside them
    functions = [inspect.getsource(member) for member in members if inspect.isfunction(member)]
    assert sum(bool(re.search(rf"\b(?:run|_change)\({name}, ", function)) for function in functions) == 1
    concerned = [function for function in functions if re.search(rf"\b{name}\b", function)]
    read = [word for function in concerned for word in re.findall(r'\bb"(\w+)"', function)]
    assert set(read) == told_words(script)


def test_the_readme_has_a_row_for_every_script() -> None:
    rows = re.findall(r"^\| \[`(\w+)\.lua`\]\(\1\.lua\) \| .* \| (.*) \| .* \|$", README, re.MULTILINE)
    assert {name for name, _ in rows} == {script.name for script in EVERY}
    for name, replies in rows:
        [script] = [script for script in EVERY if script.name == name]
        assert set(re.findall(r"`(\w+)`", replies)) == told_words(script), name
