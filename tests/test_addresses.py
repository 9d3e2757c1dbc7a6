from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.addresses import (
    IPAddress,
    OwnAddresses,
    Policy,
    UrlRefused,
    check_headers,
    check_url,
    dial_rule,
    read_url,
    refused,
)
from service.clock import SystemClock
from service.errors import Refusal
from tests.egress_corpus import GOOD_URLS, TEXT_FORMS

CLOSED = Policy()
LOOPBACK_OPEN = Policy(allow=(ip_network("127.0.0.0/8"), ip_network("::1/128")))

REFUSED_ADDRESSES = """
    0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.0
    127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.170.2 169.254.170.23 169.254.255.255
    172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.192 192.0.0.255 192.0.2.0
    192.0.2.255 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.0 192.168.255.255 192.175.48.1 198.18.0.0
    198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.0 224.0.1.1 239.255.255.255 240.0.0.0 255.255.255.254
    255.255.255.255
    :: ::1 ::2 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:0.0.0.0 ::ffff:10.0.0.1 ::ffff:100.64.0.1
    ::ffff:169.254.169.254 ::ffff:224.0.0.1 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808
    64:ff9b:1::7f00:1 64:ff9b:1:ffff::1 100::1 100:0:0:1::1 1fff:ffff::1 2001::1 2001:0:7f00:1:: 2001:1::1 2001:2::1
    2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1 2002::1
    2002:7f00:1:: 2002:808:808::1 2620:4f:8000::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 8000::1 fc00::1 fd00::1
    fd00:ec2::254 fd20:ce::254 fd7a:115c:a1e0::1 fdff:ffff::1 fe80::1 febf::1 fec0::1 feff::1 ff00::1 ff02::1 ff0e::1
    ffff::1 fe80::1%eth0 ::ffff:127.0.0.1%1 2606:4700::1%eth0 2606:4700::5efe:7f00:1 2606:4700::200:5efe:808:808
    fe80::5efe:10.0.0.1
""".split()

PUBLIC_ADDRESSES = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
    168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0
    192.88.98.255 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 203.0.114.0 223.255.255.255
    ::ffff:8.8.8.8 2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 2003::1 2606:4700:4700::1111
    2620:4f:7fff::1 2a00:1450:4001:80b::200e 2c0f::1 3ffe::1
""".split()


@pytest.mark.parametrize("text", REFUSED_ADDRESSES)
def test_address_is_refused(text: str) -> None:
    assert refused(ip_address(text), CLOSED)


@pytest.mark.parametrize("text", PUBLIC_ADDRESSES)
def test_public_address_passes(text: str) -> None:
    assert not refused(ip_address(text), CLOSED)


@given(st.ip_addresses(v=4), st.sampled_from(["::{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}", "fe80::5efe:{}"]))
def test_an_ipv4_address_in_a_translated_form_is_always_refused(ip: IPv4Address, form: str) -> None:
    assert refused(IPv6Address(form.format(ip)), CLOSED)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_the_ipv4_address_in_it(ip: IPv4Address) -> None:
    assert refused(IPv6Address(f"::ffff:{ip}"), CLOSED) == refused(ip, CLOSED)


@given(st.ip_addresses(v=4))
def test_six_to_four_and_teredo_are_always_refused(ip: IPv4Address) -> None:
    assert refused(IPv6Address((0x2002 << 112) + (int(ip) << 80) + 1), CLOSED)
    assert refused(IPv6Address((0x20010000 << 96) + (int(ip) << 64) + 1), CLOSED)


@given(st.ip_addresses(v=6))
def test_nothing_outside_global_unicast_passes_but_mapped(ip: IPv6Address) -> None:
    assert refused(ip, CLOSED) or ip in ip_network("2000::/3") or ip.ipv4_mapped is not None


def test_an_open_network_passes_its_own_interfaces_included() -> None:
    ip = ip_address("10.1.2.3")
    own: frozenset[IPAddress] = frozenset({ip, ip_address("8.8.4.4")})
    assert not refused(ip, Policy(allow=(ip_network("10.0.0.0/8"),), own_addresses=lambda: own))
    assert refused(ip_address("8.8.4.4"), Policy(allow=(ip_network("10.0.0.0/8"),), own_addresses=lambda: own))
    assert refused(ip_address("::ffff:8.8.4.4"), Policy(own_addresses=lambda: own))


def test_a_scope_is_refused_in_an_open_network_too() -> None:
    assert refused(ip_address("fe80::1%eth0"), Policy(allow=(ip_network("fe80::/10"),)))


def test_plain_http_dials_open_networks_only() -> None:
    plain = dial_rule(LOOPBACK_OPEN, plain=True)
    assert plain(ip_address("127.0.0.1"), 80) and plain(ip_address("::ffff:127.0.0.1"), 80)
    assert not plain(ip_address("8.8.8.8"), 80)
    assert dial_rule(Policy(plain_http=True), plain=True)(ip_address("8.8.8.8"), 80)
    assert not dial_rule(Policy(plain_http=True), plain=True)(ip_address("127.0.0.1"), 80)


def test_this_hosts_interfaces_are_found() -> None:
    found = OwnAddresses(SystemClock())()
    assert ip_address("127.0.0.1") in found
    assert all(isinstance(ip, IPv4Address | IPv6Address) for ip in found)


class _Hand:
    seconds = 0.0

    def now(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


def test_interfaces_are_read_again_after_thirty_seconds_only() -> None:
    clock = _Hand()
    own = OwnAddresses(clock)
    first = own()
    clock.seconds = 29.0
    assert own() is first
    clock.seconds = 31.0
    assert own() is not first


# -- URLs --


@pytest.mark.parametrize("form", TEXT_FORMS, ids=ascii)
def test_url_is_refused(form: str) -> None:
    url = form.replace("{port}", "40123")
    for policy in (CLOSED, Policy(plain_http=True), Policy(allow=(ip_network("10.99.0.0/16"),))):
        for variant in {url, url.replace("https:", "http:", 1)}:
            with pytest.raises(UrlRefused) as refusal:
                check_url(variant, policy)
            assert refusal.value.code.startswith("url_")
            assert refusal.value.detail.endswith(".")


@pytest.mark.parametrize(("given_url", "rebuilt"), GOOD_URLS.items())
def test_url_is_rebuilt(given_url: str, rebuilt: str) -> None:
    assert check_url(given_url, CLOSED) == rebuilt
    assert check_url(rebuilt, CLOSED) == rebuilt


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://hooks.example.com/{text}"):
        try:
            rebuilt = check_url(url, CLOSED)
        except UrlRefused:
            continue
        assert rebuilt.isascii() and check_url(rebuilt, CLOSED) == rebuilt


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{:d}", "{:#x}", "{:#X}", "0{:o}", "{:d}."]))
def test_an_address_as_one_number_is_never_read(number: int, form: str) -> None:
    with pytest.raises(UrlRefused):
        read_url(f"https://{form.format(number)}/")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "[::1]", "localhost", "a.localhost", "[::ffff:127.0.0.1]"])
def test_open_loopback_may_be_plain_and_on_any_port(host: str) -> None:
    for url in (f"http://{host}:22/x", f"https://{host}:6379/x", f"http://{host}/x"):
        assert check_url(url, LOOPBACK_OPEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "10.0.0.1"])
def test_refusal_of_a_local_address_tells_both_remedies(host: str) -> None:
    with pytest.raises(UrlRefused) as refusal:
        check_url(f"http://{host}:9000/secret", CLOSED)
    assert refusal.value.code == "url_address"
    assert "CALLSHEET_EGRESS_ALLOW" in refusal.value.detail and "CALLSHEET_PUBLIC_URL" in refusal.value.detail
    assert host.strip("[]") not in refusal.value.detail.replace("127.0.0.0/8", "")
    assert isinstance(refusal.value, Refusal) and refusal.value.status == 422


def test_plain_http() -> None:
    for url in ("http://hooks.example.com/", "http://8.8.8.8/"):
        with pytest.raises(UrlRefused, match="https"):
            check_url(url, CLOSED)
        assert check_url(url, Policy(plain_http=True)) == url
    # A name may lead into the open network; an address shows that it does not.
    assert check_url("http://hooks.example.com/", LOOPBACK_OPEN)
    with pytest.raises(UrlRefused, match="https"):
        check_url("http://8.8.8.8/", LOOPBACK_OPEN)


def test_an_open_network_that_is_not_loopback_opens_no_local_name() -> None:
    policy = Policy(allow=(ip_network("10.0.0.0/8"),))
    for url in ("http://localhost:9000/", "http://127.0.0.1:9000/", "https://metadata.google.internal/"):
        with pytest.raises(UrlRefused):
            check_url(url, policy)
    assert check_url("http://10.1.2.3:22/", policy)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9", "[::1]", "[::ffff:127.0.0.1]", "a.localhost"])
def test_our_own_loopback_url_is_refused_in_every_spelling(host: str) -> None:
    url = f"http://{host}:8080/x"
    policy = Policy(allow=LOOPBACK_OPEN.allow, forbidden=frozenset({("127.0.0.1", 8080)}))
    with pytest.raises(UrlRefused, match="own URL"):
        check_url(url, policy)
    assert check_url(url.replace("8080", "8081"), policy)


def test_our_own_public_url_is_refused_by_host_and_port() -> None:
    policy = Policy(forbidden=frozenset({("callsheet.example.com", 443)}))
    for url in ("https://callsheet.example.com/v1/callbacks/x", "https://CALLSHEET.example.com.:443/"):
        with pytest.raises(UrlRefused, match="own URL"):
            check_url(url, policy)
    assert check_url("https://callsheet.example.com:8443/", policy)


# -- headers --


def test_headers_are_trimmed_and_kept() -> None:
    given_headers = {"Authorization": "Bearer abc", "X-Team": " media ", "Api-Key": "k", "X-Empty": ""}
    assert check_headers(given_headers) == {
        "Authorization": "Bearer abc",
        "X-Team": "media",
        "Api-Key": "k",
        "X-Empty": "",
    }


CLOSED_HEADERS = """
    Host Content-Length Transfer-Encoding Connection Proxy-Authorization Proxy-Connection Metadata-Flavor Metadata
    X-aws-ec2-metadata-token X-aws-ec2-metadata-token-ttl-seconds X-Google-Metadata-Request webhook-id
    Webhook-Signature svix-id Cookie Content-Type Content-Encoding Accept-Encoding Expect TE Trailer Upgrade Keep-Alive
    X-Forwarded-For X-Forwarded-Host X-Real-IP X-HTTP-Method-Override X-Original-URL X-Rewrite-URL ce-id traceparent
    X- X-a:b Authorization: X-\u00e9 X-\u212a x_team
""".split()
MALFORMED_HEADERS = ("", "X a", "X-a\r\nHost", "X-a\n", "X-" + "a" * 64, "Authorization ", "X-\u00a0a")


@pytest.mark.parametrize("name", [*CLOSED_HEADERS, *MALFORMED_HEADERS])
def test_header_name_is_refused(name: str) -> None:
    with pytest.raises(UrlRefused) as refusal:
        check_headers({name: "x"})
    assert refusal.value.param == f"headers.{name[:64]}"


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "a\x00b", "a\tb", "\u00e9", "\x7f", "\ud800", "a" * 4097])
def test_header_value_is_refused(value: str) -> None:
    with pytest.raises(UrlRefused) as refusal:
        check_headers({"X-Team": value})
    assert refusal.value.param == "headers.X-Team" and value not in refusal.value.detail


def test_headers_given_twice_or_too_many_are_refused() -> None:
    with pytest.raises(UrlRefused, match="once"):
        check_headers({"X-Team": "a", "x-team": "b"})
    with pytest.raises(UrlRefused, match="At most"):
        check_headers({f"X-{n}": "a" for n in range(33)})
