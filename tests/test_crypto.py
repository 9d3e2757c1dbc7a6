"""crypto: sealed blobs, tokens and API keys that cannot be bent, and nothing secret in a log."""

import base64
import copy
import io
import json
import logging
import pickle
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import crypto
from service.crypto import MasterKey, RedactingFilter, Secret, Vault, read_api_key, redact
from service.errors import WrongMasterKey

OLD, NEW = MasterKey("k1", b"1" * 32), MasterKey("k2", b"2" * 32)
ROW = "endpoints|secret|ep_1|default"


def b64(raw):
    return base64.b64encode(raw).decode()


# -- sealing


@given(st.binary(max_size=500), st.text(st.characters(codec="utf-8")))
def test_what_was_sealed_opens_for_its_row(plain, row):
    vault = Vault([OLD])
    assert vault.open(vault.seal(plain, row=row), row=row) == plain


def test_text_is_sealed_as_utf_8_and_nothing_of_it_shows():
    vault = Vault([OLD])
    blob = vault.seal("whsec_\u00e9", row=ROW)
    assert vault.open(blob, row=ROW).decode() == "whsec_\u00e9"
    assert b"whsec_" not in blob


def test_the_blob_is_laid_out_as_documented_and_never_repeats():
    blob, again = (Vault([OLD]).seal(b"secret", row=ROW) for _ in range(2))
    assert blob[:4] == b"\x01\x02k1"
    assert len(blob) == 4 + 12 + len(b"secret") + 16
    assert blob[4:16] != again[4:16] and blob[16:] != again[16:]


def test_a_blob_moved_to_another_row_does_not_open():
    vault = Vault([OLD])
    blob = vault.seal(b"secret", row=ROW)
    for other in ("endpoints|secret|ep_2|default", "endpoints|secret|ep_1|other", ""):
        with pytest.raises(WrongMasterKey):
            vault.open(blob, row=other)


def test_no_byte_of_a_blob_can_be_changed_or_cut():
    vault = Vault([OLD, NEW])
    blob = vault.seal(b"secret", row=ROW)
    changed = [blob[:at] + bytes([blob[at] ^ bit]) + blob[at + 1 :] for at in range(len(blob)) for bit in (1, 3, 128)]
    for bad in [*changed, *(blob[:end] for end in range(len(blob))), blob + b"\0"]:
        with pytest.raises(WrongMasterKey):
            vault.open(bad, row=ROW)


@pytest.mark.parametrize("stranger", [NEW, MasterKey("k1", b"x" * 32)], ids=["another id", "another key of that id"])
def test_another_master_key_does_not_open(stranger):
    with pytest.raises(WrongMasterKey):
        Vault([stranger]).open(Vault([OLD]).seal(b"secret", row=ROW), row=ROW)


def test_after_a_rotation_old_blobs_open_and_ask_to_be_sealed_anew():
    before, during, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    blob = before.seal(b"secret", row=ROW)
    assert not before.needs_rekey(blob) and during.needs_rekey(blob)
    assert (before.key_id, during.key_id) == ("k1", "k2")
    fresh = during.seal(during.open(blob, row=ROW), row=ROW)
    assert not during.needs_rekey(fresh)
    assert after.open(fresh, row=ROW) == b"secret"


# -- master keys


def test_master_keys_are_read_newest_first():
    vault = Vault.parse(f" k2:{b64(NEW.secret)} , k1:{b64(OLD.secret).rstrip('=')}")
    assert vault.key_id == "k2"
    assert vault.open(Vault([OLD]).seal(b"secret", row=ROW), row=ROW) == b"secret"


def test_a_generated_master_key_can_be_used_and_is_new():
    first, second = crypto.generate_master_key(), crypto.generate_master_key()
    assert first != second
    assert Vault.parse(first).key_id == "k1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        b64(b"Q" * 32),
        f":{b64(b'Q' * 32)}",
        "k1:",
        f"k1:{b64(b'Q' * 31)}",
        f"k1:{b64(b'Q' * 33)}",
        f"k1:{b64(b'Q' * 32)},",
        f"k1:{b64(b'Q' * 32)},k1:{b64(b'R' * 32)}",
        f"k 1:{b64(b'Q' * 32)}",
        f"{'k' * 33}:{b64(b'Q' * 32)}",
        f"k\u00e9:{b64(b'Q' * 32)}",
        f"k1:{'-' * 43}",
        f"k1:{b64(b'Q' * 32)[:-4]} UU",
    ],
)
def test_unusable_master_keys_are_refused_without_being_repeated(text):
    with pytest.raises(ValueError) as refused:
        Vault.parse(text)
    assert "UVFR" not in str(refused.value)
    assert "UVFR" not in repr(OLD)


# -- MACs and tokens


def test_a_mac_is_bound_to_its_purpose_text_and_keys():
    before, during, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    tag = before.mac("cursor", b"text")
    assert len(tag) == 32
    assert before.mac_matches("cursor", b"text", tag) and during.mac_matches("cursor", b"text", tag)
    assert not after.mac_matches("cursor", b"text", tag)
    assert not before.mac_matches("session", b"text", tag)
    assert not before.mac_matches("cursor", b"texts", tag)
    assert not before.mac_matches("cursor", b"text", tag[:-1]) and not before.mac_matches("cursor", b"text", b"")


def test_a_callback_token_names_its_job_under_any_key():
    token = Vault([OLD]).callback_token("job_01abc")
    assert token.startswith("job_01abc-") and len(token) == len("job_01abc-") + 26
    assert Vault([NEW, OLD]).read_token(token) == "job_01abc"
    assert Vault([NEW]).read_token(token) is None


def test_a_forged_callback_token_names_nothing():
    vault = Vault([OLD])
    token = vault.callback_token("job_01abc")
    digits = "abcdefghijklmnopqrstuvwxyz234567"
    forged = [
        token[:at] + digit + token[at + 1 :] for at in range(len(token)) for digit in digits if token[at] != digit
    ]
    forged += [token[:end] for end in range(len(token))]
    forged += [
        token.upper(),
        token + "a",
        token + "=",
        " " + token,
        token + "\n",
        "job_01abc",
        "-",
        "",
        "\u00e9-" + "a" * 26,
    ]
    forged += ["job_01abd" + token[9:], token[9:], "a" * 5000, "\ud800" + token]
    assert [bad for bad in forged if vault.read_token(bad) is not None] == []


@given(st.text())
def test_reading_any_token_raises_nothing(token):
    assert Vault([OLD]).read_token(token) is None


# -- Secret


def test_a_secret_shows_itself_only_when_asked():
    secret = Secret("canary-text")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{secret!r}", str([secret])]
    shown += [json.dumps({"key": secret}, default=str), str(vars(secret) if hasattr(secret, "__dict__") else "")]
    shown += [str(pickle.dumps(secret)), str(pickle.dumps([secret]))]
    assert "canary" not in "".join(shown)
    assert str(secret) == "***" and secret.reveal() == "canary-text"
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_copied_secret_keeps_its_text():
    secret = Secret("canary-text")
    assert copy.deepcopy([secret])[0].reveal() == copy.copy(secret).reveal() == "canary-text"


def test_secrets_compare_by_text_and_only_with_secrets():
    assert Secret("a") == Secret("a") and hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("\udcff") == Secret("\udcff")


# -- API keys


def test_a_new_api_key_reads_back_as_it_is_stored():
    key = crypto.new_api_key()
    assert len(key.text) == len("cs_sk_") + 32 + 6
    assert read_api_key(key.text) == (key.lookup, key.digest)
    assert key.text[6:14] == key.lookup and len(key.digest) == 32
    assert key.text not in repr(key)
    assert crypto.new_api_key().text != key.text


def test_a_known_api_key_keeps_its_checksum_and_digest():
    text = "cs_sk_" + "0123456789ABCDEFGHIJKLMNOPQRSTUV" + "44TfZd"
    lookup, digest = read_api_key(text) or ("", b"")
    assert lookup == "01234567"
    assert digest.hex() == "1d3e9a019190e021ad2e3eff94f50ee4d787609cc27eb936f8b64723fdd7df96"


def test_every_typo_of_one_character_and_every_swap_is_caught():
    text = crypto.new_api_key().text
    typos = {text[:at] + char + text[at + 1 :] for at in range(len(text)) for char in crypto.BASE62} - {text}
    typos |= {text[:at] + text[at + 1] + text[at] + text[at + 2 :] for at in range(len(text) - 1)} - {text}
    assert len(typos) > 2500
    assert [typo for typo in typos if read_api_key(typo) is not None] == []


@pytest.mark.parametrize("change", [str.upper, str.lower, "{} ".format, "{}\n".format, " {}".format, "{}0".format,
                                    lambda t: t[:-1], lambda t: t.replace("cs_sk_", "cs_rk_"), lambda t: "",
                                    lambda t: t.replace("cs_sk_", ""), lambda t: t[:-1] + "\u00e9"])  # fmt: skip
def test_a_malformed_api_key_is_not_read(change):
    assert read_api_key(change(crypto.new_api_key().text)) is None


def test_same_compares_bytes():
    assert crypto.same(b"ab", b"ab")
    assert not crypto.same(b"ab", b"abc") and not crypto.same(b"ab", b"aB")


# -- redaction

CANARY = "c4n4ry" + "x7K" * 8
TOKEN = Vault([OLD]).callback_token("job_01abc")
LEAKS = [
    f"secret whsec_{CANARY}==",
    f"v1,whsec_{CANARY}/+=",
    f"WHSEC_{CANARY}",
    f"whsk_{CANARY}+/==",
    f"key cs_sk_{CANARY} was used",
    f"cs_rk_{CANARY},",
    f"sk-{CANARY}",
    f"Bearer {CANARY}",
    f"bearer  {CANARY}",
    f"Authorization: Bearer {CANARY}",
    f"authorization: Key id:{CANARY}",
    f"Authorization: {CANARY}",
    f"Authorization: Basic {CANARY}",
    f"Proxy-Authorization: Basic {CANARY}",
    f"{{'Authorization': 'Bearer {CANARY}'}}",
    f"[(b'authorization', b'Key {CANARY}')]",
    f'{{"authorization":"{CANARY}"}}',
    f"API-KEY: {CANARY}",
    f"api-key:{CANARY}",
    f"{{'API-KEY': '{CANARY}'}}",
    f"[(b'api-key', b'{CANARY}'), (b'host', b'x')]",
    f"[('API-KEY', '{CANARY}')]",
    f'{{"api_key": "{CANARY}"}}',
    f'"{{\\"api_key\\": \\"{CANARY}\\"}}"',
    f"x-api-key={CANARY}",
    f"xi-api-key: {CANARY}",
    f"x-key: {CANARY}",
    f"CALLSHEET_PIXVERSE_API_KEY={CANARY}",
    f"CALLSHEET_PIXVERSE_CALLBACK_SECRET={CANARY}",
    f"CALLSHEET_MASTER_KEYS=k1:{CANARY}",
    f"callback_secret='{CANARY}'",
    f'"callback_secret": "two words {CANARY}"',
    f"password: {CANARY}",
    f"client_secret={CANARY}&x=1",
    f"access_token={CANARY}",
    f"sig={CANARY}",
    f"Cookie: sid={CANARY}",
    f"Set-Cookie: {CANARY}",
    f"k1:{base64.b64encode(CANARY.encode()[:24] + b'01234567').decode()}",
    f"POST /v1/callbacks/peakmv/{CANARY} HTTP/1.1",
    f"https://callsheet.example/v1/callbacks/pixverse/{CANARY}?x=1",
    f"GET /v1/outputs/{CANARY}",
    f"token {TOKEN.replace('job_01abc', 'job_' + 'a')} seen",
    f"https://media.example/v.mp4?X-Amz-Signature={CANARY}&a=b",
    f"https://media.example/v.mp4?a=b&c={CANARY}#frag",
    f"https://media.example?{CANARY}",
    f"GET /v1/endpoints?cursor={CANARY} HTTP/1.1",
    f"'url': 'https://media.example/a?b={CANARY}'",
    f"v.mp4?se={CANARY}",
    f"postgresql://callsheet:{CANARY}@db.example/callsheet",
    f"http://user:{CANARY}@proxy.example:3128",
    f"https://{CANARY}@proxy.example",
]


def leaked(text):
    return "c4n4ry" in text.lower() or TOKEN.rpartition("-")[2] in text or b64(CANARY.encode()[:24])[:20] in text


def test_the_corpus_is_large_and_each_of_its_texts_would_leak():
    assert len(LEAKS) >= 40
    assert all(leaked(text) for text in LEAKS)


@pytest.mark.parametrize("text", LEAKS)
def test_no_secret_survives_redaction(text):
    clean = redact(f"before {text} after")
    assert not leaked(clean)
    assert "***" in clean and clean.startswith("before ")
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "job_01abc moved from queued to submitting",
        "delivery dlv_1 to ep_2: 503 after 1.204 s",
        "listening on http://127.0.0.1:8080",
        "POST /v1/callbacks/pixverse HTTP/1.1 200",
        "GET https://api.example/v2/jobs/a1b2 200",
        "who owes what? nobody knows",
        "the token bucket is empty, the secret stays",
        "",
    ],
)
def test_harmless_texts_stay(text):
    assert redact(text) == text


PIECES = st.sampled_from(
    [*LEAKS, "?", "=", ":", " ", "'", '"', "\\", ",", "/", "bearer", "api-key", "token", "whsec_", "***"]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_redacting_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("unit", ["/", "a-", "x_", "a.", "://", "\\", "?", "api-key", "bearer ", "AbC+/", "'key',"])
def test_a_hostile_megabyte_is_redacted_in_time(unit):
    text = unit * (1_000_000 // len(unit))
    begun = time.perf_counter()
    redact(text)
    assert time.perf_counter() - begun < 20


# -- logging


def logged(write, known=()):
    stream = io.StringIO()
    shown = logging.StreamHandler(stream)
    shown.setFormatter(logging.Formatter("%(levelname)s %(message)s %(extra)s", defaults={"extra": ""}))
    shown.addFilter(RedactingFilter(known))
    logger = logging.Logger("test")
    logger.addHandler(shown)
    write(logger)
    return stream.getvalue()


def failing(logger):
    try:
        raise ValueError(f"no such key: cs_sk_{CANARY}")
    except ValueError:
        logger.exception("it failed")


@pytest.mark.parametrize(
    "write",
    [
        lambda logger: logger.info("key %s", f"cs_sk_{CANARY}"),
        lambda logger: logger.info("API-KEY: %s", CANARY),
        lambda logger: logger.info("%(api_key)s is api_key=%(api_key)s", {"api_key": f"sk-{CANARY}"}),
        lambda logger: logger.info("headers %s", {"API-KEY": CANARY}),
        lambda logger: logger.info(ValueError(f"Bearer {CANARY}")),
        lambda logger: logger.info("%d", f"whsec_{CANARY}"),
        lambda logger: logger.info("extra", extra={"extra": f"Bearer {CANARY}"}),
        lambda logger: logger.info("by value, shapeless %s", f"[{CANARY}]"),
        failing,
    ],
)
def test_no_secret_reaches_a_log_line(write):
    text = logged(write, known=[Secret(CANARY), Secret("INFO"), Secret("")])
    assert text.startswith(("INFO", "ERROR"))
    assert not leaked(text)


def test_a_traceback_is_still_shown():
    text = logged(failing)
    assert "it failed" in text and "Traceback" in text and "ValueError: no such key: cs_sk_***" in text


def test_uvicorns_access_log_keeps_its_five_arguments():
    path = f"/v1/callbacks/peakmv/{CANARY}?x=1"
    arguments = ("127.0.0.1:5000", "POST", path, "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', arguments, None)
    assert RedactingFilter().filter(record)
    assert record.args == ("127.0.0.1:5000", "POST", "/v1/callbacks/peakmv/***?***", "1.1", 200)
    assert record.getMessage() == '127.0.0.1:5000 - "POST /v1/callbacks/peakmv/***?*** HTTP/1.1" 200'


def test_a_record_without_an_active_exception_passes():
    record = logging.LogRecord("x", logging.INFO, "", 0, "said", None, sys.exc_info())
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "said"
