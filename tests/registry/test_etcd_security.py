"""etcd that asks who we are: passwords, tokens that end, certificates."""

import asyncio
import base64
import dataclasses
import json
from pathlib import Path

import pytest

from modelmesh.errors import Code, MeshError
from modelmesh.registry.etcd.config import EtcdConfig, Tls, parse
from modelmesh.registry.etcd.store import EtcdStore
from modelmesh.registry.store import Put
from tests.registry.certificates import HAVE_OPENSSL, Authority, rsa_pair
from tests.registry.etcd_server import PROGRAMS, EtcdServer
from tests.registry.patient import PatientStore
from tests.registry.waiting import BOUND_S, until

pytestmark = pytest.mark.timeout(2 * BOUND_S)

needs_openssl = pytest.mark.skipif(not HAVE_OPENSSL, reason="there is no openssl on PATH")


def read(path: str) -> bytes | None:
    return Path(path).read_bytes() if Path(path).is_file() else None


def enable_authentication(server: EtcdServer) -> None:
    """root may do everything; mm may use what lies below /test/; nobody else gets in."""
    begin, end = (base64.b64encode(key).decode() for key in (b"/test/", b"/test0"))
    server.ask("auth/user/add", {"name": "root", "password": "r00t"})
    server.ask("auth/role/add", {"name": "root"})
    server.ask("auth/user/grant", {"user": "root", "role": "root"})
    server.ask("auth/user/add", {"name": "mm", "password": "secret"})
    server.ask("auth/role/add", {"name": "mm"})
    permission = {"permType": "READWRITE", "key": begin, "range_end": end}
    server.ask("auth/role/grant", {"name": "mm", "perm": permission})
    server.ask("auth/user/grant", {"user": "mm", "role": "mm"})
    server.ask("auth/enable", {})


def ours(server: EtcdServer) -> EtcdConfig:
    return server.config(user="mm", password="secret")


async def test_a_token_is_got_and_forgotten_tokens_are_got_anew(etcd: EtcdServer) -> None:
    """Whoever sets a password, be it the same one, ends the user's tokens."""
    enable_authentication(etcd)
    async with asyncio.timeout(BOUND_S), PatientStore(ours(etcd)) as store:
        revision = (await store.commit([], [Put("a", b"1")])).revision
        lease = await store.grant(60)
        assert await store.keep_alive(lease)
        watch = store.watch("", revision)
        waiting = asyncio.ensure_future(anext(watch))
        renewals = store.renewals
        assert renewals
        token = etcd.ask("auth/authenticate", {"name": "root", "password": "r00t"})["token"]
        etcd.ask("auth/user/changepw", {"name": "mm", "password": "secret"}, token)
        both = [store.keep_alive(lease), store.commit([], [Put("a", b"2")])]
        assert all(await asyncio.gather(*both))
        assert store.renewals > renewals
        assert [event.key for event in await waiting] == ["a"]
        waiting = asyncio.ensure_future(anext(watch))
        etcd.kill()
        etcd.start()
        await until(lambda: answers(store))
        await store.commit([], [Put("b", b"2")])
        assert [event.key for event in await waiting] == ["b"]


async def answers(store: EtcdStore) -> bool:
    try:
        await store.get("a")
    except MeshError:
        return False
    return True


async def test_callers_share_one_renewal_and_its_failure(etcd: EtcdServer) -> None:
    enable_authentication(etcd)
    renewals: list[int] = []
    while 1 not in renewals:  # more, where etcd stands still for longer than it may take
        async with asyncio.timeout(BOUND_S), EtcdStore(ours(etcd)) as store:
            await asyncio.gather(*(store.get("a") for _ in range(50)))
            renewals.append(store.renewals)
        assert len(renewals) < 4, f"each time more than one: {renewals}"
    async with asyncio.timeout(BOUND_S), EtcdStore(ours(etcd)) as store:
        etcd.pause()
        reads = [store.get("a") for _ in range(50)]
        for error in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(error, MeshError)
            assert error.failure.code is Code.UNAVAILABLE
        reading = asyncio.ensure_future(store.get("a"))
        watching = asyncio.ensure_future(anext(store.watch("", 0)))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(MeshError, match="closed"):
            await reading
        with pytest.raises(StopAsyncIteration):
            await watching
        etcd.resume()


@needs_openssl
async def test_tokens_that_end_are_renewed_without_a_failed_call(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    keys = rsa_pair(tmp_path)
    etcd.stop()
    token = f"jwt,pub-key={keys.certificate},priv-key={keys.key},sign-method=RS256,ttl=1s"
    etcd.flags = (f"--auth-token={token}",)
    etcd.start()
    enable_authentication(etcd)
    async with asyncio.timeout(BOUND_S), PatientStore(ours(etcd)) as store:
        watch = store.watch("", 0)
        await store.commit([], [Put("a", b"1")])
        assert [event.key for event in await anext(watch)] == ["a"]

        async def renewed_twice() -> bool:
            assert await store.get("a") is not None
            return store.renewals >= 3

        await until(renewed_twice)
        assert (await store.commit([], [Put("b", b"2")])).succeeded
        assert [event.key for event in await anext(watch)] == ["b"]


async def test_authentication_that_begins_or_ends_while_we_are_connected(
    etcd: EtcdServer,
) -> None:
    async with asyncio.timeout(BOUND_S), PatientStore(ours(etcd)) as store:
        assert (await store.commit([], [Put("a", b"1")])).succeeded
        enable_authentication(etcd)
        assert (await store.commit([], [Put("a", b"2")])).succeeded
        token = etcd.ask("auth/authenticate", {"name": "root", "password": "r00t"})["token"]
        etcd.ask("auth/disable", {}, token)
        assert (await store.commit([], [Put("a", b"3")])).succeeded


@pytest.mark.parametrize(
    ("user", "password", "root"),
    [("mm", "wrong", "/test/"), ("", "", "/test/"), ("mm", "secret", "/other/")],
    ids=["wrong password", "nobody", "foreign keys"],
)
async def test_whom_etcd_does_not_let_in_is_told_so(
    etcd: EtcdServer, user: str, password: str, root: str
) -> None:
    enable_authentication(etcd)
    config = etcd.config(root, user=user, password=password)
    async with asyncio.timeout(BOUND_S), EtcdStore(config) as store:
        for work in (store.get("a"), store.commit([], [Put("a", b"")]), anext(store.watch("", 0))):
            with pytest.raises(MeshError) as caught:
                await work
            assert caught.value.failure.code is Code.FAILED_PRECONDITION
            assert not caught.value.failure.executed
            assert "wrong" not in caught.value.failure.message


def secured(folder: Path, version: str) -> EtcdServer:
    """An etcd that asks for a certificate; `etcd.json` in the folder names ours."""
    sign_all(folder)
    document = {
        "root_prefix": "/ns",
        "certificate_file": "ca.pem",
        "client_certificate_file": "client.pem",
        "client_key_file": "client.key",
        "override_authority": "etcd.example",
    }
    flags = (
        f"--cert-file={folder / 'etcd.example.pem'}",
        f"--key-file={folder / 'etcd.example.key'}",
        f"--trusted-ca-file={folder / 'ca.pem'}",
        "--client-cert-auth",
    )
    etcd = EtcdServer(PROGRAMS[version], folder / "etcd", scheme="https", flags=flags)
    document["endpoints"] = f"https://{etcd.address}"
    (folder / "etcd.json").write_text(json.dumps(document))
    return etcd


def sign_all(folder: Path) -> None:
    """By a new authority, which trusts nothing of what an earlier one signed."""
    authority = Authority(folder)
    authority.sign("etcd.example", "DNS:etcd.example")
    authority.sign("client")


@needs_openssl
@pytest.mark.parametrize("version", list(PROGRAMS))
async def test_both_sides_show_certificates(version: str, tmp_path: Path) -> None:
    etcd = secured(tmp_path, version)
    etcd.start()
    try:
        config = parse(str(tmp_path / "etcd.json"), "svc", read)
        async with asyncio.timeout(BOUND_S), PatientStore(config) as store:
            revision = (await store.commit([], [Put("a", b"1")])).revision
            assert [e.revision for e in await anext(store.watch("", 0))] == [revision]
            assert await store.keep_alive(await store.grant(60))
        assert config.tls is not None
        strangers = (
            None,
            dataclasses.replace(config.tls, certificate=None, key=None),
            dataclasses.replace(config.tls, authority=""),
            Tls(certificate=config.tls.certificate, key=config.tls.key, authority="etcd.example"),
        )
        without = [dataclasses.replace(config, tls=tls) for tls in strangers]
        await asyncio.gather(*(assert_kept_out(each) for each in without))
    finally:
        etcd.stop()


@needs_openssl
async def test_certificates_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    etcd = secured(tmp_path, next(iter(PROGRAMS)))
    etcd.start()

    def reread() -> EtcdConfig:
        return parse(str(tmp_path / "etcd.json"), "svc", read)

    try:
        async with asyncio.timeout(BOUND_S), PatientStore(reread(), reread=reread) as store:
            watch = store.watch("", (await store.commit([], [Put("a", b"1")])).revision)
            news = asyncio.ensure_future(anext(watch))
            etcd.stop()
            before = reread()
            sign_all(tmp_path)
            etcd.start()
            await assert_kept_out(before)
            await until(lambda: answers(store))
            await store.commit([], [Put("b", b"2")])
            assert [event.key for event in await news] == ["b"]
            (tmp_path / "client.pem").unlink()  # somebody is about to write it anew
            etcd.stop()
            assert not await answers(store)
            etcd.start()
            await until(lambda: answers(store))
    finally:
        etcd.stop()


async def assert_kept_out(config: EtcdConfig) -> None:
    async with asyncio.timeout(BOUND_S), EtcdStore(config) as store:
        with pytest.raises(MeshError) as caught:
            await store.get("a")
        assert caught.value.failure.code is Code.UNAVAILABLE
