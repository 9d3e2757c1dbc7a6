"""Secrets in what strangers say: no spelling of one is left, nothing else is touched, and lengths stay."""

import base64
import json
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.crypto import MasterKey, Vault
from service.facts import Accepted, JobError, Output, Update
from service.masking import Masks
from service.states import ErrorCode, JobStatus
from service.told import of_header, of_secret, of_url

KEY = "sk-live/4f9+aB_cD=eF.gH~iJ kL\"mN'oP\\q%41"
TOKEN = Vault([MasterKey("k1", bytes(32))]).callback_token("job_01mcc5rm0053fkjw2qgpgz8pgt")  # fixed: it names tests
ACCOUNT = Vault([MasterKey("k1", bytes(32))]).callback_token("credential-17")


def aligned(before: bytes, after: bytes, *, url: bool = False) -> Callable[[str], bytes]:
    """Base64 of a text in which the secret stands, without the letters that other bytes decide, too."""

    def letters(secret: str) -> bytes:
        encode = base64.urlsafe_b64encode if url else base64.b64encode
        whole = before + secret.encode()
        return encode(whole + after)[-(-len(before) * 8 // 6) : len(whole) * 8 // 6]

    return letters


def in_units(text: str) -> bytes:
    units = text.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)).encode()


def in_percents(text: str) -> bytes:
    return "".join(f"%{byte:02x}" for byte in text.encode()).encode()


def in_json(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


FORMS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "percent-encoded": lambda secret: quote(secret, safe="").encode(),
    "percent-encoded but for slashes": lambda secret: quote(secret).encode(),
    "as a form's field": lambda secret: quote_plus(secret).encode(),
    "percent-encoded, every byte": in_percents,
    "percent-encoded in capitals": lambda secret: in_percents(secret).upper(),
    "percent-encoded twice": lambda secret: quote(quote(secret, safe=""), safe="").encode(),
    "in JSON": in_json,
    "in JSON with escaped slashes": lambda secret: in_json(secret).replace(b"/", b"\\/"),
    "in JSON in JSON": lambda secret: in_json(in_json(secret).decode()),
    "in JSON, every letter escaped": in_units,
    "percent-encoded in JSON": lambda secret: in_json(quote(secret, safe="")).replace(b"%", b"\\u0025"),
    "JSON, percent-encoded": lambda secret: quote(in_json(secret), safe="").encode(),
    "base64": aligned(b"", b""),
    "base64 behind one byte": aligned(b"k", b""),
    "base64 behind two bytes": aligned(b"id", b"!"),
    "base64 of basic authorization": aligned(b"user:", b""),
    "base64url": aligned(b"", b"??", url=True),
    "base64url behind one byte": aligned(b">", b"", url=True),
    "base64url behind two bytes": aligned(b"??", b"", url=True),
    "base64 in a query": lambda secret: quote(aligned(b"ab", b"")(secret), safe="").encode(),
    "base64 in JSON with escaped slashes": lambda secret: aligned(b"a", b"")(secret).replace(b"/", b"\\/"),
}
SECRETS = st.text(
    st.sampled_from(string.ascii_letters + string.digits + "-._~:/?#[]@!$&'()*+,;=%\\\" {}é"), min_size=16
)
AROUND = st.binary(max_size=40) | st.text(st.sampled_from('\\%2u0{}":/=+ab4cd*'), max_size=12).map(str.encode)


@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_is_starred_at_its_length(form: str) -> None:
    said = FORMS[form](KEY)
    assert Masks([KEY]).data(b'{"error":"' + said + b' is wrong"}') == b'{"error":"' + b"*" * len(said) + b' is wrong"}'


@pytest.mark.parametrize("form", FORMS)
@given(secret=SECRETS, before=AROUND, after=AROUND, cuts=st.lists(st.integers(1, 30)))
@settings(deadline=None, max_examples=25)
@example(secret="ab/cdefghijklmnop", before=b"%", after=b"", cuts=[])
@example(secret="n/cdefghijklmnop", before=b"\\", after=b"\\", cuts=[1])
@example(secret='5"63defghijklmnop', before=b"%2", after=b"5", cuts=[7])
def test_nothing_of_a_secret_is_left_and_lengths_stay(
    form: str, secret: str, before: bytes, after: bytes, cuts: list[int]
) -> None:
    said = FORMS[form](secret)
    whole, masks = before + said + after, Masks([secret])
    masked = masks.data(whole)
    assert len(masked) == len(whole) and said not in masked
    assert b"*" * len(said) in masked
    passed = in_pieces(masks, whole, cuts)
    assert len(passed) == len(whole) and b"*" * len(said) in passed


def in_pieces(masks: Masks, whole: bytes, cuts: list[int]) -> bytes:
    stream, said = masks.stream(), b""
    for size in (*cuts, len(whole)):
        said += stream.feed(whole[:size])
        whole = whole[size:]
    return said + stream.end()


@given(data=AROUND | st.binary(max_size=300), secret=SECRETS, cuts=st.lists(st.integers(1, 30)))
@settings(deadline=None)
def test_a_text_without_a_secret_stays_byte_for_byte(data: bytes, secret: str, cuts: list[int]) -> None:
    masks = Masks([secret])
    if not any(form(secret) in data for form in FORMS.values()):
        assert masks.data(data) == data
        assert in_pieces(masks, data, cuts) == data


@given(st.data())
@settings(deadline=None)
def test_any_mixture_of_spellings_letter_by_letter_is_one(data: st.DataObject) -> None:
    ways = (str.encode, in_percents, in_units, lambda letter: in_units(letter).replace(b"\\", b"\\\\"))
    said = b"".join(data.draw(st.sampled_from(ways))(letter) for letter in KEY if letter not in "%\\")
    assert Masks([KEY.replace("%", "").replace("\\", "")]).data(b"<" + said + b">") == b"<" + b"*" * len(said) + b">"


@pytest.mark.parametrize("secret", ["sandbox", "", "x" * 15])
def test_a_short_value_is_a_word(secret: str) -> None:
    said = f"made in the {secret} of {secret}".encode()
    assert Masks([secret]).data(said) is said


@pytest.mark.parametrize("token", [TOKEN, ACCOUNT])
@pytest.mark.parametrize("form", [form for form in FORMS if "base64" not in form])
def test_a_callback_token_is_known_by_its_shape(token: str, form: str) -> None:
    said = FORMS[form](token)
    told = b"see https://us.example/v1/callbacks/p/"
    assert Masks().data(told + said) == told + b"*" * len(said)
    assert in_pieces(Masks(), told + said, [1] * len(told + said)) == told + b"*" * len(said)


@pytest.mark.parametrize("text", [TOKEN[:-1], "job_" + "0" * 26, "credential-17", "my-job_is-not", TOKEN[5:]])
def test_what_only_resembles_a_token_is_left(text: str) -> None:
    assert Masks().text(text) == text


def test_the_shorter_of_two_secrets_hides_nothing_of_the_longer() -> None:
    url, path = "https://h.example/hook/secret-part?and=more", "/hook/secret-part"
    masks = Masks([path, url])
    assert masks.text(f"POST {url} failed") == f"POST {'*' * len(url)} failed"
    assert in_pieces(masks, url.encode(), [1] * len(url)) == b"*" * len(url)


def test_what_is_held_back_is_less_than_the_longest_secret() -> None:
    stream = Masks(["0123456789abcdefg"]).stream()
    assert stream.feed(b"nothing of it") == b"nothing of it"
    assert stream.feed(b"<0123456789abcdef") == b"<"
    assert stream.feed(b"x") == b"0123456789abcdefx"
    assert (stream.feed(b"0123456789"), stream.feed(b"abcdefg!"), stream.end()) == (b"", b"*" * 17 + b"!", b"")


def test_a_cut_start_shows_nothing_of_a_secret_at_the_cut() -> None:
    masks = Masks(["0123456789abcdefg"])
    assert masks.head(b"<0123456789abcdefg>" + b"x" * 50, 10) == b"<*********"
    assert masks.head(b"short", 10) == b"short"


def test_records_keep_their_ids_and_words_and_lose_only_secrets() -> None:
    output = Output(url=f"https://cdn.example/v.mp4?sig=Zm9vYmFyYmF6cXV4&key={quote(KEY)}")
    error = JobError(code=ErrorCode.PROVIDER_ERROR, message=f"bad key {KEY}", provider_code="401")
    said = Update(
        status=JobStatus.FAILED, outputs=(output,), error=error, provider_data={KEY: [{"a": KEY, "b": 2**63}]}
    )
    masked = Masks([KEY]).inside(said)
    assert masked.outputs[0].url == f"https://cdn.example/v.mp4?sig=Zm9vYmFyYmF6cXV4&key={'*' * len(quote(KEY))}"
    assert masked.error == JobError(
        code=ErrorCode.PROVIDER_ERROR, message=f"bad key {'*' * len(KEY)}", provider_code="401"
    )
    assert masked.provider_data == {"*" * len(KEY): [{"a": "*" * len(KEY), "b": 2**63}]}
    assert masked.status is JobStatus.FAILED
    untouched: Any = Accepted(provider_job_ids=("p-1",), provider_data={"a": None, "b": (1, True, "x")})
    assert Masks([KEY]).inside(untouched) == untouched
    assert msgspec.json.encode(Masks([KEY]).inside(untouched)) == msgspec.json.encode(untouched)


def test_what_is_nested_beyond_reason_loses_its_depth_and_nothing_else() -> None:
    deep: Any = KEY
    for _ in range(900):
        deep = [deep]
    masked = Masks([KEY]).inside(Accepted(provider_job_ids=("p-1",), provider_data={"deep": deep, "a": KEY}))
    assert masked.provider_job_ids == ("p-1",) and masked.provider_data is not None
    assert masked.provider_data["a"] == "*" * len(KEY) and KEY not in repr(masked)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (of_header("Bearer 0123456789abcdef"), "0123456789abcdef"),
        (of_header("Basic " + base64.b64encode(b"user:0123456789abcdef").decode()), "0123456789abcdef"),
        (of_header("0123456789abcdef"), "0123456789abcdef"),
        (of_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (of_secret("an-id:0123456789abcdef"), "0123456789abcdef"),
        (of_url("https://h.example/services/T0123456789abcdef?x=1"), "T0123456789abcdef"),
        (of_url("https://h.example/in?a=1&token=0123456789ab%2Fdef"), "0123456789ab/def"),
        (of_url("https://h.example/in?a=1&token=0123456789abcdef"), "/in?a=1&token=0123456789abcdef"),
    ],
)
def test_the_secret_part_of_what_is_sent_is_one_by_itself(found: Any, wanted: str) -> None:
    assert wanted in list(found)
