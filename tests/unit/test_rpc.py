"""JSON-RPC: framing byte by byte, and a real client against a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sds.errors import InvalidValue, NotFound, SdsError, Unavailable
from sds.rpc import INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, Client, FramingError, RpcError, Server, Splitter


async def double(number: int, times: int = 1) -> object:
    """A method with a required and an optional parameter."""
    return number * 2**times


async def refuse(name: str, tags: list[str] | None = None) -> object:
    """A method that refuses."""
    raise NotFound(f"there is no {name} {tags}", field="name")


async def slow() -> object:
    """A method that does not end by itself."""
    await asyncio.sleep(3600)
    return None


async def broken() -> object:
    """A method with a bug."""
    raise ZeroDivisionError("a bug")


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a running server."""
    server = Server(tmp_path / "sock", {"double": double, "refuse": refuse, "slow": slow, "broken": broken})
    await server.start()
    yield tmp_path / "sock"
    await server.stop()


@pytest.fixture
async def client(path: Path) -> AsyncIterator[Client]:
    """A client of it."""
    client = Client(path, call_limit_s=5)
    yield client
    await client.close()


def test_messages_are_cut_where_their_braces_close() -> None:
    splitter = Splitter()
    assert splitter.feed(b'{"a":1}{"b":') == [b'{"a":1}']
    assert splitter.feed(b'"}"} \r\n\t[1,[2]]') == [b'{"b":"}"}', b"[1,[2]]"]
    assert splitter.feed(rb'{"c":"\"}{\\"}') == [rb'{"c":"\"}{\\"}']


def test_messages_cut_at_any_byte_are_put_together_again(seed: int) -> None:
    rng = random.Random(seed)
    messages = [{"text": "".join(rng.choices('{}[]"\\ aé', k=rng.randrange(20)))} for _ in range(200)]
    stream = b"".join(json.dumps(message, ensure_ascii=False).encode() for message in messages)
    splitter, found = Splitter(), []
    while stream:
        size = rng.randrange(1, 12)
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert [json.loads(message) for message in found] == messages


@pytest.mark.parametrize("data", [b"x", b'{"a":1}]', b'"text"', b"GET / HTTP/1.1", b"{" * 65, b'{"' + b"a" * 100])
def test_what_is_no_message_ends_the_connection(data: bytes) -> None:
    with pytest.raises(FramingError):
        Splitter(bytes_max=100).feed(data)


def _feed(data: bytes, sizes: list[int]) -> tuple[list[bytes], bool]:
    """The messages in `data`, which comes in portions of such sizes, and whether it ended the connection."""
    splitter, found = Splitter(bytes_max=100), []
    for size in sizes:
        try:
            found += splitter.feed(data[:size])
        except FramingError:
            return found, True
        data = data[size:]
    return found, False


def test_any_bytes_are_cut_alike_in_any_portions(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3000):
        data = bytes(rng.choices(b'{}[]"\\:1a \n\x00\xff', k=rng.randrange(60)))
        sizes = [rng.randrange(1, 8) for _ in range(60)]
        (found, ended), (by_byte, ended_by_byte) = _feed(data, sizes), _feed(data, [1] * 60)
        # What comes before a fault in the same portion is lost with the connection.
        assert ended == ended_by_byte, data
        assert found == by_byte[: len(found)], data
        assert ended or found == by_byte, data
        assert all(message[:1] in b"{[" and message[-1:] in b"}]" for message in by_byte), data


def _spoilt(rng: random.Random) -> bytes:
    """A request with a few of its bytes changed, or values in it that a method does not expect."""
    values: list[object] = [None, -1, 2.5, "x", [], {}, [[1]], {"a": {}}, 1 << 70, "\ud800", float("inf"), True]
    request: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "double", "params": {"number": 1}}
    for key in rng.sample(sorted(request), rng.randrange(3)):
        request[key] = rng.choice(values)
    if rng.random() < 0.3:
        request["params"] = {rng.choice(["number", "times", "self", ""]): rng.choice(values)}
    data = bytearray(json.dumps(request).encode())
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.choice(b'{}[]",:9e-\\\x00\xff')
    return bytes(data)


async def test_random_requests_are_answered_or_end_their_connection_alone(
    path: Path, client: Client, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for _ in range(10):
            writer.write(_spoilt(rng))
        writer.write_eof()
        async with asyncio.timeout(10):
            answers = Splitter().feed(await reader.read(-1))
        assert all("error" in (answer := json.loads(one)) or "result" in answer for one in answers)
        writer.close()
    assert await client.call("double", number=4) == 8
    assert {record.message.partition(":")[0] for record in caplog.records} <= {"ended a connection"}


async def test_the_socket_is_its_owners_alone(path: Path) -> None:
    assert stat.S_IMODE((await asyncio.to_thread(path.stat)).st_mode) == 0o600


async def test_many_calls_in_flight_find_their_answers(client: Client) -> None:
    assert await asyncio.gather(*(client.call("double", number=n) for n in range(500))) == [2 * n for n in range(500)]


async def test_a_refusal_keeps_its_class_and_field(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        await client.call("refuse", name="pool", tags=["a"])
    assert (caught.value.field, caught.value.detail) == ("name", "there is no pool ['a']")


@pytest.mark.parametrize(
    ("params", "field", "accepted"),
    [
        ({}, "number", "an integer"),
        ({"number": "1"}, "number", "an integer"),
        ({"number": True}, "number", "an integer"),
        ({"number": 1, "more": 2}, "more", "one of number, times"),
    ],
)
async def test_parameters_are_checked(client: Client, params: dict[str, object], field: str, accepted: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        await client.call("double", **params)
    assert (caught.value.field, caught.value.accepted) == (field, accepted)


async def test_lists_are_checked_item_by_item(client: Client) -> None:
    with pytest.raises(InvalidValue) as caught:
        await client.call("refuse", name="x", tags=[1])
    assert caught.value.accepted == "a list, each a string or null"


async def test_a_bug_is_an_internal_error_and_the_connection_stays(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SdsError, match="a bug") as caught:
        await client.call("broken")
    assert caught.value.slug == "internal"
    assert "broken failed" in caplog.text
    assert await client.call("double", number=4, times=2) == 16


async def test_an_unknown_method_is_refused_by_code(client: Client) -> None:
    with pytest.raises(RpcError) as caught:
        await client.call("nothing")
    assert caught.value.code == METHOD_NOT_FOUND


@pytest.mark.parametrize(
    ("request_bytes", "code"), [(b"{]", PARSE_ERROR), (b"[1]", INVALID_REQUEST), (b'{"id":1}', INVALID_REQUEST)]
)
async def test_what_is_no_request_is_refused(path: Path, request_bytes: bytes, code: int) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request_bytes)
    answer = json.loads(await reader.readuntil(b"}}"))
    assert (answer["error"]["code"], answer["id"]) == (code, None)
    writer.close()


async def test_a_call_that_takes_too_long_is_given_up(path: Path) -> None:
    client = Client(path, call_limit_s=0.1)
    with pytest.raises(Unavailable, match=r"slow was not answered within 0\.1 s"):
        await client.call("slow")
    assert await client.call("double", number=1) == 2
    await client.close()


async def test_a_client_finds_the_server_that_was_started_again(tmp_path: Path) -> None:
    client = Client(tmp_path / "sock")
    with pytest.raises(Unavailable, match="nothing answers"):
        await client.call("double", number=1)
    for _ in range(2):
        server = Server(tmp_path / "sock", {"double": double, "slow": slow})
        await server.start()
        assert await client.call("double", number=1) == 2
        waiting = asyncio.create_task(client.call("slow"))
        await asyncio.sleep(0.05)
        await server.stop()
        with pytest.raises(Unavailable):
            await waiting
    await client.close()


async def test_a_connection_that_breaks_while_a_call_is_sent_fails_that_call_alone(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    unseen: list[object] = []
    broken_off = False
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context["message"]))
    client = Client(tmp_path / "sock")
    async with await asyncio.start_unix_server(hang_up, str(tmp_path / "sock")):
        try:
            # More than a socket takes at once: the call still waits to be sent.
            await client.call("double", number="1" * (8 << 20))
        except Unavailable:
            broken_off = True
    await client.close()
    # What nobody looked at is told when it is let go of, which takes the loop some turns.
    await asyncio.sleep(0.05)
    gc.collect()
    assert broken_off
    assert not unseen
