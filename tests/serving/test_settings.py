"""Settings of a server: one model for the command line and the file; what does not fit is refused by name."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from pydantic import ValidationError

from l2l_ray.errors import ConfigError
from l2l_ray.serving.access import sha256_of
from l2l_ray.serving.settings import BuildArgs, ServeConfig, add_options, is_loopback, origin_of, read_settings


def read(*words: str) -> ServeConfig:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_settings(parser.parse_args(words))


def test_words_win_over_the_file_which_wins_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9000\nmax_batch: 2\nreplica_resources: {GPU: 1}\n")
    found = read("--settings", str(file), "--port", "9001", "--prior", "--prior_resources", "{CPU: 2}")
    changed = {"port": 9001, "max_batch": 2, "prior": True}
    assert found == ServeConfig(**changed, replica_resources={"GPU": 1}, prior_resources={"CPU": 2})
    assert read() == ServeConfig()


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert read().host == "127.0.0.1"


def test_open_requests_are_those_that_wait_and_those_that_replicas_hold() -> None:
    assert ServeConfig(max_queued=5, max_batch=3, max_replicas=2).max_open == 5 + 2 * 6


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://Serve.Example.org:443/", "https://serve.example.org"),
        ("http://node_7:80", "http://node_7"),
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("https://[::1]:80", "https://[::1]:80"),
    ],
)
def test_an_address_is_read_as_browsers_write_it(address: str, origin: str) -> None:
    assert origin_of(address) == origin


@pytest.mark.parametrize(
    "address",
    [
        *("", "serve.example.org", "ftp://a", "http://", "http://a:b", "http://a:99999", "http://a/l2l", "http://a?b"),
        *("http://a#b", "http://anna@a", "http://[::1", "http://a b", "http://*", "null"),
    ],
)
def test_what_is_no_address_or_more_than_one_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must be scheme, name and port, such as .* got "):
        origin_of(address)


def test_an_international_name_is_asked_for_in_punycode() -> None:
    with pytest.raises(
        ConfigError, match="public_url: .*punycode, such as https://xn--.*, got 'https://bücher.example"
    ):
        read("--public_url", "https://bücher.example")
    assert origin_of("https://xn--bcher-kva.example") == "https://xn--bcher-kva.example"


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "0", "0.0", "0x0", "::", "[::]", "0:0::0", "::0.0.0.0", "::ffff:0.0.0.0"]
)
def test_every_spelling_of_all_networks_is_nobodys_address(host: str) -> None:
    with pytest.raises(ConfigError, match="needs public_url"):
        read("--review", "--host", host)
    found = read("--review", "--host", host, "--public_url", "http://node7:8000").addresses
    assert found == ("http://127.0.0.1:8000", "http://localhost:8000", "http://node7:8000")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.0", "node0", "::1", "0.example.org"])
def test_what_is_one_network_is_an_address(host: str) -> None:
    assert len(read("--review", "--host", host).addresses) == (2 if host == "127.0.0.1" else 3)


def test_the_addresses_are_loopback_the_host_and_that_of_the_proxy() -> None:
    loopback = ("http://127.0.0.1:8000", "http://localhost:8000")
    assert read("--review").addresses == loopback
    found = read("--review", "--host", "0.0.0.0", "--public_url", "https://serve.example.org/")
    assert found.addresses == (*loopback, "https://serve.example.org") and found.url == "https://serve.example.org"
    found = read("--host", "node7", "--port", "80")
    assert found.addresses == ("http://127.0.0.1", "http://localhost", "http://node7")
    assert read("--host", "0.0.0.0").url == "http://0.0.0.0:8000", "as long as no review page asks for more"


@pytest.mark.parametrize(
    ("words", "content", "said"),
    [
        (["--port", "0"], "", "port: .*greater than or equal to 1, got '0'"),
        (["--max_batch", "many"], "", "max_batch: .*got 'many'"),
        (["--replicas", "3"], "", "max_replicas must be at least replicas=3, got 1"),
        (["--replica_resources", "{CPU"], "", "replica_resources: .*dictionary"),
        (
            ["--replica_resources", "{GPU: 1, GPU: 0}"],
            "",
            "'GPU' stands in line 1 already",
        ),
        (["--review", "--host", "0.0.0.0"], "", "review with host '0.0.0.0' needs public_url, .* got none; give it"),
        (["--public_url", "serve.example.org"], "", "public_url: .*got 'serve.example.org'"),
        ([], "prot: 1", "unknown field prot; did you mean port"),
        ([], "- 1", "must hold a mapping of fields, got list"),
        ([], "{", "is no YAML"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, words: list[str], content: str, said: str) -> None:
    if content:
        (tmp_path / "serve.yaml").write_text(content)
        words = ["--settings", str(tmp_path / "serve.yaml")]
    with pytest.raises(ConfigError, match=said):
        read(*words)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: No such file"):
        read("--settings", str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "a" * 64 + "\n", "the-token-itself-of-16-characters"])
def test_what_is_no_hash_of_a_token_is_refused_and_not_repeated(digest: str) -> None:
    with pytest.raises(ValidationError, match="token_sha256") as told:
        BuildArgs(token_sha256=digest)
    assert "the-token-itself" not in str(told.value)
    assert BuildArgs(token_sha256=sha256_of("the-token-itself-of-16-characters"))


def test_what_is_reached_from_this_machine_alone() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "node7")
    assert [host for host in hosts if is_loopback(host)] == ["127.0.0.1", "::1", "localhost"]
