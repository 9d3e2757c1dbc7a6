"""signatures: published vectors, everything malformed refused without another exception, and the official library."""

import base64
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from service import signatures
from service.errors import CallsheetError, SignatureRefused
from service.signatures import HmacKey, InvalidSecret, StaleSignature, Verified, parse_secret, signed_headers, verify

TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = parse_secret(TEXT)
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="

OPENAI_BODY = (
    b'{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, '
    b'"type": "response.completed", "data": {"id": "resp_123"}}'
)
VECTORS = [
    (TEXT, ID, AT, BODY, SIGNATURE),
    (
        "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c=",
        "wh_685c059ae39c8190af8c71ed1022a24d",
        1750861210,
        OPENAI_BODY,
        "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY=",
    ),
]


def some_headers(prefix="webhook", **changed):
    values = {"id": ID, "timestamp": str(AT), "signature": SIGNATURE} | changed
    return {f"{prefix}-{name}": value for name, value in values.items() if value is not None}


def refusal(headers, body=BODY, *, keys=(KEY,), now=AT):
    with pytest.raises(SignatureRefused) as refused:
        verify(keys, headers, body, now=now)
    return refused.value


@pytest.mark.parametrize(("secret", "event_id", "at", "body", "signature"), VECTORS)
def test_published_vectors_are_reproduced_and_verify(secret, event_id, at, body, signature):
    key = parse_secret(secret)
    assert signatures.sign([key], event_id=event_id, timestamp=at, body=body) == signature
    headers = {"webhook-id": event_id, "webhook-timestamp": str(at), "webhook-signature": signature}
    assert verify([key], headers, body, now=at) == Verified(event_id, at)


# -- secrets


def test_new_secrets_are_padded_base64_of_32_bytes_and_differ():
    first, second = signatures.new_secret(), signatures.new_secret()
    assert first != second
    assert first.startswith("whsec_") and first.endswith("=")
    assert len(parse_secret(first)) == 32


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (TEXT, 24),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 24),
        ("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 24),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", 23),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr", 25),
        ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", 24),
        ("whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c=", 32),
        ("whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c", 32),
        ("whsec_" + base64.b64encode(bytes(64)).decode(), 64),
        ("whsec_" + base64.b64encode(bytes(75)).decode(), 75),
    ],
)
def test_secrets_are_read_padded_or_not_with_any_of_their_prefixes(text, length):
    assert len(parse_secret(text)) == length


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "v1,whsec_",
        "w",
        "whsec_%",
        "whsec_wronglength",
        "whsec_" + base64.b64encode(bytes(22)).decode(),
        "whsec_" + base64.b64encode(bytes(76)).decode(),
        "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg",
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "hwsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v2,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        TEXT + "=",
        TEXT + "\n",
        " " + TEXT,
        TEXT + "B",
        "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c==",
        "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24-Aj40c=",
        "whsec_RdvaYFYUXuIF=uEbvZHwMfYFhUf7aMYjYcmM24+Aj40c",
        "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40\u00e7=",
    ],
)
def test_texts_that_are_no_symmetric_secret_are_refused_and_not_repeated(text):
    with pytest.raises(InvalidSecret) as refused:
        parse_secret(text)
    assert isinstance(refused.value, CallsheetError | ValueError)
    assert len(text) < 8 or text[-8:] not in str(refused.value)


@given(st.text())
def test_parsing_any_text_as_a_secret_raises_nothing_else(text):
    try:
        parse_secret(text)
    except InvalidSecret:
        pass


# -- signing


def test_every_key_signs_in_the_order_given():
    old, new = b"o" * 32, b"n" * 32
    both = signatures.sign([new, old], event_id=ID, timestamp=AT, body=BODY).split(" ")
    assert both == [signatures.sign([key], event_id=ID, timestamp=AT, body=BODY) for key in (new, old)]


def test_a_kept_key_signs_as_its_bytes_do_again_and_again():
    kept = HmacKey(KEY)
    assert [signatures.sign([kept], event_id=ID, timestamp=AT, body=BODY) for _ in range(3)] == [SIGNATURE] * 3
    assert verify([kept], some_headers(), BODY, now=AT).event_id == ID


def test_a_receiver_with_either_key_of_a_rotation_verifies():
    old, new, stranger = b"o" * 32, b"n" * 32, b"s" * 32
    headers = signed_headers([new, old], event_id=ID, timestamp=AT, body=BODY)
    for keys in ([old], [new], [stranger, old], [new, stranger]):
        assert verify(keys, headers, BODY, now=AT) == Verified(ID, AT)
    refusal(headers, keys=[stranger])


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": []},
        {"keys": [KEY] * 11},
        {"keys": [b""]},
        {"event_id": ""},
        {"event_id": "evt.1"},
        {"event_id": "evt 1"},
        {"event_id": "evt\r\nx: y"},
        {"event_id": "\u00e9vt"},
        {"timestamp": -1},
        {"timestamp": 10**12},
    ],
)
def test_what_no_receiver_could_verify_is_not_signed(wrong):
    arguments = {"keys": [KEY], "event_id": ID, "timestamp": AT, "body": BODY} | wrong
    with pytest.raises(ValueError):
        signatures.sign(arguments.pop("keys"), **arguments)


# -- verifying: what is accepted


@pytest.mark.parametrize("name", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("prefix", ["webhook", "svix"])
def test_header_names_in_any_case_of_either_family(prefix, name):
    headers = {name(key): value for key, value in some_headers(prefix).items()}
    assert verify([KEY], headers | {"Content-Type": "\u00e9"}, BODY, now=AT) == Verified(ID, AT)


@pytest.mark.parametrize(
    "signature",
    [
        f"v1,{OTHER} v2,{OTHER} {SIGNATURE} v1,{OTHER}",
        f"v1a,hnO3f9T8 {SIGNATURE}",
        f"{SIGNATURE} v1,a garbage v1 ,  v1,",
        f"  {SIGNATURE}  ",
        " ".join([f"v9,{OTHER}"] * 30 + [SIGNATURE]),
        " ".join([f"v1,{OTHER}"] * 9 + [SIGNATURE]),
    ],
)
def test_one_right_signature_among_others_is_enough(signature):
    assert verify([KEY], some_headers(signature=signature), BODY, now=AT) == Verified(ID, AT)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00", "\u00fc\U0001f600".encode(), b"\x80" * 70_000])
def test_any_bytes_are_a_body(body):
    headers = signed_headers([KEY], event_id=ID, timestamp=AT, body=body)
    assert verify([KEY], headers, body, now=AT) == Verified(ID, AT)


@pytest.mark.parametrize("skew", [-300, -1, 0, 1, 300])
def test_five_minutes_of_skew_are_tolerated_both_ways(skew):
    assert verify([KEY], some_headers(), BODY, now=AT + skew) == Verified(ID, AT)


def test_the_timestamp_is_signed_as_it_was_written():
    text = f"{ID}.00{AT}.".encode() + BODY
    headers = some_headers(timestamp=f"00{AT}", signature=HmacKey(KEY).sign(text))
    assert verify([KEY], headers, BODY, now=AT) == Verified(ID, AT)
    refusal(some_headers(timestamp=f"00{AT}"))


# -- verifying: what is refused


def test_a_right_signature_that_is_too_old_says_what_it_proves():
    refused = refusal(some_headers(), now=AT + 301)
    assert isinstance(refused, StaleSignature)
    assert refused.verified == Verified(ID, AT)


def test_a_wrong_signature_that_is_too_old_proves_nothing():
    assert not isinstance(refusal(some_headers(signature=f"v1,{OTHER}"), now=AT + 301), StaleSignature)


def test_a_timestamp_more_than_five_minutes_ahead_is_a_forgery():
    assert not isinstance(refusal(some_headers(), now=AT - 301), StaleSignature)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": None},
        {"timestamp": None},
        {"signature": None},
        {"id": ""},
        {"id": "msg.p5jXN8AQM9LWM0D4loKWxJek"},
        {"id": "msg p5j"},
        {"id": "msg_\u00e9"},
        {"id": "\ud800"},
        {"id": "m" * 4097},
        {"timestamp": ""},
        {"timestamp": "hello"},
        {"timestamp": f"{AT}.7"},
        {"timestamp": f"+{AT}"},
        {"timestamp": f"-{AT}"},
        {"timestamp": f" {AT}"},
        {"timestamp": f"{AT}\n"},
        {"timestamp": "16142_65330"},
        {"timestamp": f"{AT}000"},
        {"timestamp": "1" * 20},
        {"timestamp": "1" * 5000},
        {"timestamp": "1614265330".translate({ord(d): 0x0660 + int(d) for d in "0123456789"})},
        {"timestamp": "nan"},
        {"signature": ""},
        {"signature": " "},
        {"signature": "v1"},
        {"signature": "v1,"},
        {"signature": "v1,a"},
        {"signature": "garbage"},
        {"signature": "v1,AA,BB"},
        {"signature": SIGNATURE.replace(",", ";")},
        {"signature": f"{SIGNATURE.removeprefix('v1,')}, v1"},
        {"id": f"{ID}, {ID}x"},
        {"id": f"{ID},{ID}x"},
        {"timestamp": f"{AT}, {AT + 1}"},
        {"timestamp": f"{AT},{AT + 1}"},
        {"signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="},
        {"signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF="},  # the same bytes, spelled otherwise
        {"signature": SIGNATURE.rstrip("=")},
        {"signature": SIGNATURE + "="},
        {"signature": SIGNATURE.replace("+", "-").replace("/", "_")},
        {"signature": SIGNATURE.replace("v1,", "v1a,")},
        {"signature": SIGNATURE.replace("v1,", "v2,")},
        {"signature": SIGNATURE.replace("v1,", "V1,")},
        {"signature": SIGNATURE.removeprefix("v1,")},
        {"signature": SIGNATURE + "\u00e9"},
        {"signature": f"{SIGNATURE} v1,\U0001f600"},
        {"signature": " ".join([f"v1,{OTHER}"] * 10 + [SIGNATURE])},
        {"signature": SIGNATURE + " " * 4096},
    ],
    ids=lambda changed: repr(changed)[:60],
)
def test_malformed_headers_are_refused_and_raise_nothing_else(changed):
    refusal(some_headers(**changed))


@pytest.mark.parametrize("missing", ["id", "timestamp", "signature"])
@pytest.mark.parametrize(("family", "other"), [("webhook", "svix"), ("svix", "webhook")])
def test_a_mixture_of_two_families_is_refused(family, other, missing):
    headers = some_headers(family, **{missing: None})
    headers |= {f"{other}-{missing}": some_headers()[f"webhook-{missing}"]}
    assert len(headers) == 3
    refusal(headers)


def test_a_header_given_twice_is_a_list_and_one_of_one_value_is_there_once():
    assert verify([KEY], some_headers() | {"Webhook-Signature": f"v1,{OTHER}"}, BODY, now=AT) == Verified(ID, AT)
    assert verify([KEY], some_headers() | {"Webhook-Id": ID}, BODY, now=AT) == Verified(ID, AT)
    refusal(some_headers() | {"Webhook-Id": f"{ID}x"})
    refusal(some_headers() | {"Webhook-Timestamp": str(AT + 1)})


@pytest.mark.parametrize("keys", [[], [b""], [KEY, b""]])
def test_without_a_key_nothing_verifies(keys):
    refusal(some_headers(), keys=keys)


def test_another_body_id_or_time_does_not_verify():
    refusal(some_headers(), body=BODY + b" ")
    refusal(some_headers(id=ID + "x"))
    refusal(some_headers(timestamp=str(AT + 1)))


# -- fuzz

BODIES = st.binary(max_size=200)
KEYS = st.binary(min_size=24, max_size=64)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="."), min_size=1, max_size=40)


@given(KEYS, IDS, st.integers(0, 10**12 - 1), BODIES)
def test_what_was_signed_always_verifies(key, event_id, at, body):
    headers = signed_headers([key], event_id=event_id, timestamp=at, body=body)
    assert verify([key], headers, body, now=at) == Verified(event_id, at)


@given(KEYS, BODIES, st.data())
def test_a_flipped_bit_anywhere_never_verifies(key, body, data):
    signed = signed_headers([key], event_id=ID, timestamp=AT, body=body)
    part = data.draw(st.sampled_from([*signed, "body"] if body else [*signed]))
    raw = bytearray(body if part == "body" else signed[part].encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    headers = signed if part == "body" else signed | {part: raw.decode("latin-1")}
    refusal(headers, bytes(raw) if part == "body" else body, keys=[key])


@given(KEYS, BODIES, st.data())
def test_a_cut_signature_never_verifies(key, body, data):
    headers = signed_headers([key], event_id=ID, timestamp=AT, body=body)
    text = headers["webhook-signature"]
    headers["webhook-signature"] = text[: data.draw(st.integers(0, len(text) - 1))]
    refusal(headers, body, keys=[key])


@given(KEYS, BODIES, st.integers(1, 3))
def test_another_base64_spelling_of_the_same_bytes_never_verifies(key, body, spare):
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    headers = signed_headers([key], event_id=ID, timestamp=AT, body=body)
    text = headers["webhook-signature"].removeprefix("v1,")
    last = alphabet[alphabet.index(text[-2]) + spare]  # the two spare bits of 32 bytes in 43 characters
    assert base64.b64decode(text[:-2] + last + "=") == base64.b64decode(text)
    refusal(headers | {"webhook-signature": f"v1,{text[:-2]}{last}="}, body, keys=[key])


@given(
    st.dictionaries(st.sampled_from(["webhook-id", "Webhook-Timestamp", "webhook-signature", "x"]), st.text()), BODIES
)
def test_any_headers_and_body_raise_only_the_refusal(headers, body):
    refusal(headers, body)


# -- the official library as oracle


@given(KEYS, BODIES.filter(lambda body: body.decode("utf-8", "ignore").encode() == body))
def test_the_official_library_makes_the_same_signature(key, body):
    theirs = standardwebhooks.Webhook(base64.b64encode(key).decode())
    signature = theirs.sign(ID, datetime.fromtimestamp(AT, UTC), body.decode())
    assert signatures.sign([key], event_id=ID, timestamp=AT, body=body) == signature
    assert verify([key], some_headers(signature=signature), body, now=AT) == Verified(ID, AT)


@given(KEYS, KEYS, st.integers())
def test_the_official_library_verifies_what_we_sign(key, old, number):
    now = int(datetime.now(UTC).timestamp())
    body = b'{"n": %d}' % number
    headers = signed_headers([old, key], event_id="evt_1", timestamp=now, body=body)
    theirs = standardwebhooks.Webhook("whsec_" + base64.b64encode(key).decode())
    assert theirs.verify(body, headers) == {"n": number}


# -- Ed25519, as providers use it for callbacks

PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, test 1
EMPTY_TEXT = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
    "d25bf5f0595bbe24655141438e7a100b"
)


def test_the_published_ed25519_vector_verifies():
    assert signatures.verify_ed25519(PUBLIC_KEY, EMPTY_TEXT, b"") is True


@pytest.mark.parametrize(
    ("key", "signature", "text"),
    [
        (PUBLIC_KEY, EMPTY_TEXT, b"x"),
        (PUBLIC_KEY, EMPTY_TEXT[::-1], b""),
        (PUBLIC_KEY, EMPTY_TEXT[:-1], b""),
        (PUBLIC_KEY, b"", b""),
        (PUBLIC_KEY[:-1], EMPTY_TEXT, b""),
        (b"", EMPTY_TEXT, b""),
        (b"\xff" * 32, EMPTY_TEXT, b""),
    ],
)
def test_what_is_no_ed25519_signature_of_the_text_does_not_verify(key, signature, text):
    assert signatures.verify_ed25519(key, signature, text) is False
