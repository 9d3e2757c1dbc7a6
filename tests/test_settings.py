"""settings: every knob is read, documented and refused with a sentence; master keys are made once."""

import base64
import dataclasses
import ipaddress
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import settings
from service.crypto import Secret
from service.settings import ProviderSettings, Settings, SettingsError, describe, env_example, load, load_vault

PROVIDERS = ["pixverse", "peakmv", "aimlapi", "progressiverobot"]
KEY = "a-key-that-an-operator-chose-1234567"
MASTER = "k1:" + base64.b64encode(bytes(range(32))).decode()  # the same in every test process


def refusal(environ, dotenv=None):
    with pytest.raises(SettingsError) as refused:
        load(environ, dotenv, known_providers=PROVIDERS)
    return str(refused.value)


def dotenv_of(tmp_path, text):
    path = tmp_path / ".env"
    path.write_text(text, encoding="utf-8")
    return path


# -- defaults and values


def test_an_empty_environment_gives_the_documented_defaults():
    read = load({}, known_providers=PROVIDERS)
    assert read == Settings(providers={name: ProviderSettings() for name in PROVIDERS})
    assert read.database_url == "sqlite:///callsheet.db"
    assert read.public_url == read.url == "http://127.0.0.1:8080"
    assert read.retry_schedule == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert (read.delivery_timeout, read.delivery_concurrency, read.endpoint_concurrency) == (15, 256, 16)
    assert (read.credential_concurrency, read.max_pending_jobs, read.log_level) == (16, 100_000, "INFO")
    assert (read.retention_attempts_days, read.retention_jobs_days, read.retention_held_days) == (30, 90, 30)
    assert (read.api_key, read.master_keys, read.egress_allow, read.egress_proxy) == (None, None, (), None)
    assert (read.sandbox_url, read.operator_url) == (None, None)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("DATABASE_URL", "sqlite:////var/lib/callsheet.db", "sqlite:////var/lib/callsheet.db"),
        ("DATABASE_URL", "sqlite:///data/c s.db", "sqlite:///data/c s.db"),
        ("DATABASE_URL", "postgresql://u:p@db:5432/callsheet?sslmode=require", ...),
        ("DATABASE_URL", "postgresql:///callsheet?host=/run/postgresql", ...),
        ("PUBLIC_URL", "https://callsheet.example", "https://callsheet.example"),
        ("PUBLIC_URL", "https://callsheet.example:8443/prefix/two", ...),
        ("PUBLIC_URL", "http://[::1]:8080", ...),
        ("URL", "http://callsheet.internal:8080", ...),
        ("API_KEY", KEY, Secret(KEY)),
        ("MASTER_KEYS", MASTER, Secret(MASTER)),
        ("EGRESS_ALLOW", "127.0.0.0/8", (ipaddress.ip_network("127.0.0.0/8"),)),
        ("EGRESS_ALLOW", "10.1.2.3, ::1/128", (ipaddress.ip_network("10.1.2.3/32"), ipaddress.ip_network("::1/128"))),
        ("EGRESS_PROXY", "http://user:pass@proxy.example:3128", ...),
        ("SANDBOX_URL", "http://127.0.0.1:9000", ...),
        ("OPERATOR_URL", "https://ops.example/hook?team=1", ...),
        ("RETRY_SCHEDULE", "0,0.5,1", (0, 0.5, 1)),
        ("DELIVERY_TIMEOUT", "30", 30),
        ("DELIVERY_CONCURRENCY", "1", 1),
        ("ENDPOINT_CONCURRENCY", "4", 4),
        ("CREDENTIAL_CONCURRENCY", "4", 4),
        ("MAX_PENDING_JOBS", "5", 5),
        ("RETENTION_ATTEMPTS_DAYS", "1", 1),
        ("RETENTION_JOBS_DAYS", "365", 365),
        ("RETENTION_HELD_DAYS", "7", 7),
        ("LOG_LEVEL", "debug", "DEBUG"),
    ],
)
def test_values_are_read(variable, text, value):
    read = load({f"CALLSHEET_{variable}": f" {text} "})
    assert getattr(read, variable.lower()) == (text if value is ... else value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DATABASE_URL", "callsheet.db"),
        ("DATABASE_URL", "sqlite:callsheet.db"),
        ("DATABASE_URL", "sqlite://callsheet.db"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///data/"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:///a.db?mode=ro"),
        ("DATABASE_URL", "postgresql://u:canary@db"),
        ("DATABASE_URL", "mysql://u:canary@db/callsheet"),
        ("PUBLIC_URL", "callsheet.example"),
        ("PUBLIC_URL", "ftp://callsheet.example"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", "https:///path"),
        ("PUBLIC_URL", "https://callsheet.example/"),
        ("PUBLIC_URL", "https://callsheet.example/prefix/"),
        ("PUBLIC_URL", "https://callsheet.example?"),
        ("PUBLIC_URL", "https://callsheet.example#"),
        ("PUBLIC_URL", "https://callsheet.example?a=b"),
        ("PUBLIC_URL", "https://callsheet.example/#frag"),
        ("PUBLIC_URL", "https://user@callsheet.example"),
        ("PUBLIC_URL", "https://callsheet.example:port"),
        ("PUBLIC_URL", "https://callsheet.example:0"),
        ("PUBLIC_URL", "https://callsheet.example:70000"),
        ("PUBLIC_URL", "https://call sheet.example"),
        ("PUBLIC_URL", "https://callsheet.example/a b"),
        ("PUBLIC_URL", "https://c\u00e4llsheet.example"),
        ("PUBLIC_URL", "https://[::1"),
        ("PUBLIC_URL", "https://[1:2:3]"),
        ("URL", "127.0.0.1:8080"),
        ("API_KEY", "canary"),
        ("API_KEY", "canary-" + "x" * 24),
        ("API_KEY", "canary " + "x" * 40),
        ("API_KEY", "canary\u00e9" + "x" * 40),
        ("MASTER_KEYS", "canary"),
        ("MASTER_KEYS", "k1:canary"),
        ("EGRESS_ALLOW", "localhost"),
        ("EGRESS_ALLOW", "10.0.0.1/8"),
        ("EGRESS_ALLOW", "10.0.0.0/8,"),
        ("EGRESS_PROXY", "http://user:canary"),
        ("EGRESS_PROXY", "socks5://user:canary@proxy.example"),
        ("SANDBOX_URL", "http://127.0.0.1:9000/"),
        ("OPERATOR_URL", "canary"),
        ("RETRY_SCHEDULE", "five"),
        ("RETRY_SCHEDULE", "0,-5"),
        ("DELIVERY_TIMEOUT", "0"),
        ("DELIVERY_TIMEOUT", "31"),
        ("DELIVERY_TIMEOUT", "15s"),
        ("DELIVERY_CONCURRENCY", "1.5"),
        ("ENDPOINT_CONCURRENCY", "-1"),
        ("CREDENTIAL_CONCURRENCY", "\u0661"),
        ("MAX_PENDING_JOBS", "1_000"),
        ("RETENTION_JOBS_DAYS", "9" * 5000),
        ("LOG_LEVEL", "loud"),
        ("PIXVERSE_BASE_URL", "https://app-api.pixverse.example/"),
        ("PIXVERSE_POLL", "maybe"),
    ],
)
def test_a_bad_value_is_one_sentence_naming_the_variable_and_the_remedy(variable, text):
    sentence = refusal({f"CALLSHEET_{variable}": text})
    assert re.fullmatch(rf"CALLSHEET_{variable} cannot be used: .+: (give|write|remove|make) .+\.", sentence)
    assert "canary" not in sentence


def test_every_problem_is_told_at_once():
    sentences = refusal({"CALLSHEET_LOG_LEVEL": "loud", "CALLSHEET_URL": "x", "CALLSHEET_NOPE": "1"}).splitlines()
    assert [sentence.split()[0] for sentence in sentences] == ["CALLSHEET_URL", "CALLSHEET_LOG_LEVEL", "CALLSHEET_NOPE"]


def test_an_empty_value_counts_as_not_given():
    assert load({"CALLSHEET_API_KEY": "", "CALLSHEET_LOG_LEVEL": " ", "CALLSHEET_NOPE": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CALLSHEET_DATABASE", "CALLSHEET_DATABASE_URL"),
        ("CALLSHEET_MASTER_KEY", "CALLSHEET_MASTER_KEYS"),
        ("CALLSHEET_RETRY_SHEDULE", "CALLSHEET_RETRY_SCHEDULE"),
        ("CALLSHEET_PIXVERS_API_KEY", "CALLSHEET_PIXVERSE_API_KEY"),
        ("CALLSHEET_LOG_LEVEL_FILE", "CALLSHEET_LOG_LEVEL"),
        ("CALLSHEET_PORT", "CALLSHEET_"),
        ("CALLSHEET_", "CALLSHEET_"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(name, nearest):
    assert refusal({name: "1"}).startswith(f"{name} is not known: did you mean {nearest}")


def test_other_programs_variables_and_kubernetes_service_links_are_let_be():
    links = {
        "CALLSHEET_SERVICE_HOST": "10.0.0.1",
        "CALLSHEET_SERVICE_PORT": "8080",
        "CALLSHEET_SERVICE_PORT_HTTP": "8080",
        "CALLSHEET_PORT": "tcp://10.0.0.1:8080",
        "CALLSHEET_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "CALLSHEET_PORT_8080_TCP_ADDR": "10.0.0.1",
        "CALLSHEET_DB_SERVICE_HOST": "10.0.0.2",
        "CALLSHEET_DB_PORT": "tcp://10.0.0.2:5432",
    }
    assert load({"HOME": "/", "DATABASE_URL": "nonsense", "callsheet_url": "x"} | links) == Settings()


# -- providers


def test_every_known_provider_has_settings_and_keeps_its_own_options():
    read = load(
        {
            "CALLSHEET_PIXVERSE_API_KEY": "canary-1",
            "CALLSHEET_PIXVERSE_CALLBACK_SECRET": "canary-2",
            "CALLSHEET_PIXVERSE_CALLBACK_ID": "123",
            "CALLSHEET_PIXVERSE_BASE_URL": "http://127.0.0.1:9000/pixverse",
            "CALLSHEET_PIXVERSE_POLL": "No",
            "CALLSHEET_PEAKMV_RETRY_500": "false",
            "CALLSHEET_PEAKMV_POLL": "true",
        },
        known_providers=PROVIDERS,
    )
    assert set(read.providers) == set(PROVIDERS)
    assert read.providers["pixverse"] == ProviderSettings(
        api_key=Secret("canary-1"),
        callback_secret=Secret("canary-2"),
        callback_id="123",
        base_url="http://127.0.0.1:9000/pixverse",
        poll=False,
    )
    assert read.providers["peakmv"] == ProviderSettings(poll=True, options={"retry_500": "false"})
    assert read.providers["aimlapi"] == ProviderSettings()


def test_a_mistyped_provider_variable_is_not_taken_for_an_option():
    assert "did you mean CALLSHEET_PIXVERSE_API_KEY?" in refusal({"CALLSHEET_PIXVERSE_API_KYE": "canary"})
    assert "canary" not in refusal({"CALLSHEET_PIXVERSE_API_KYE": "canary"})


def test_a_provider_whose_name_begins_with_anothers_keeps_its_variables():
    read = load({"CALLSHEET_FAL_X_API_KEY": "1", "CALLSHEET_FAL_Y": "2"}, known_providers=["fal", "fal-x"])
    assert read.providers["fal-x"] == ProviderSettings(api_key=Secret("1"))
    assert read.providers["fal"] == ProviderSettings(options={"y": "2"})


# -- secrets


def test_no_secret_shows_in_repr():
    environ = {
        "CALLSHEET_DATABASE_URL": "postgresql://u:canary@db/callsheet",
        "CALLSHEET_API_KEY": "canary" * 10,
        "CALLSHEET_MASTER_KEYS": MASTER,
        "CALLSHEET_EGRESS_PROXY": "http://u:canary@proxy.example",
        "CALLSHEET_OPERATOR_URL": "https://ops.example/canary",
        "CALLSHEET_PIXVERSE_API_KEY": "canary",
        "CALLSHEET_PIXVERSE_CALLBACK_SECRET": "canary",
        "CALLSHEET_PIXVERSE_TOKEN": "canary",
    }
    read = load(environ, known_providers=PROVIDERS)
    assert "canary" not in repr(read) and MASTER not in repr(read)
    assert dataclasses.replace(read).providers["pixverse"].api_key == Secret("canary")
    assert dataclasses.asdict(read)["api_key"] == Secret("canary" * 10)


SECRETS = ["DATABASE_URL", "API_KEY", "MASTER_KEYS", "EGRESS_PROXY", "OPERATOR_URL", "PIXVERSE_API_KEY",
           "PIXVERSE_CALLBACK_SECRET"]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_can_be_a_file(name, tmp_path):
    values = {"DATABASE_URL": "sqlite:///x.db", "MASTER_KEYS": MASTER, "API_KEY": KEY}
    text = values.get(name, "https://u:p@ops.example")
    path = tmp_path / "secret"
    path.write_text(f"{text}\n")
    by_file = load({f"CALLSHEET_{name}_FILE": str(path)}, known_providers=PROVIDERS)
    assert (
        by_file == load({f"CALLSHEET_{name}": text}, known_providers=PROVIDERS) != load({}, known_providers=PROVIDERS)
    )


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_secret_file_that_gives_nothing_is_refused(content, tmp_path):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    assert refusal({"CALLSHEET_API_KEY_FILE": str(path)}).startswith("CALLSHEET_API_KEY cannot be used: the file that")
    assert "missing" in refusal({"CALLSHEET_API_KEY_FILE": str(tmp_path)})


def test_a_secret_given_twice_is_refused(tmp_path):
    assert "remove one of them" in refusal({"CALLSHEET_API_KEY": KEY, "CALLSHEET_API_KEY_FILE": "x"})


# -- .env


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CALLSHEET_X=plain", "plain"),
        ("export CALLSHEET_X=plain", "plain"),
        ("  CALLSHEET_X = spaced out  ", "spaced out"),
        ("CALLSHEET_X=a#b", "a#b"),
        ("CALLSHEET_X=a # comment", "a"),
        ("CALLSHEET_X='a # b'", "a # b"),
        ("CALLSHEET_X='a\\nb' # comment", "a\\nb"),
        ('CALLSHEET_X="a # b"', "a # b"),
        ('CALLSHEET_X="say \\"hi\\" \\\\ there" # comment', 'say "hi" \\ there'),
        ('CALLSHEET_X="a\\nb"', "a\nb"),
        ("CALLSHEET_X=a=b==", "a=b=="),
        ("CALLSHEET_X=it's", "it's"),
        ("CALLSHEET_X=$HOME", "$HOME"),
        ("CALLSHEET_X=\u00e9", "\u00e9"),
        ("\ufeffCALLSHEET_X=a", "a"),
        ("CALLSHEET_X=a\r", "a"),
        ("CALLSHEET_X=1\nCALLSHEET_X=2", "2"),
    ],
)
def test_dotenv_lines_are_read(line, value, tmp_path):
    read = load({}, dotenv_of(tmp_path, line.replace("_X", "_PEAKMV_X")), known_providers=["peakmv"])
    assert read.providers["peakmv"].options == {"x": value}


@pytest.mark.parametrize(
    "line", ["", "   ", "# CALLSHEET_X=1", "#CALLSHEET_X=1", "CALLSHEET_X=", "CALLSHEET_X=''", 'CALLSHEET_X=""',
             "CALLSHEET_X= # comment", "OTHER=1", "OTHER='unclosed", "nonsense"],
)  # fmt: skip
def test_comments_empty_values_and_other_programs_lines_give_nothing(line, tmp_path):
    assert load({}, dotenv_of(tmp_path, line)) == Settings()


@pytest.mark.parametrize(
    "line", ["CALLSHEET_X", "CALLSHEET_X='a", 'CALLSHEET_X="a', "CALLSHEET_X='a' b", "CALLSHEET-X=1"]
)
def test_a_dotenv_line_that_cannot_be_read_is_named(line, tmp_path):
    assert ".env:2 is not NAME=value" in refusal({}, dotenv_of(tmp_path, f"# first\n{line}\n"))


def test_a_missing_dotenv_is_no_error_and_an_unreadable_one_is(tmp_path):
    assert load({}, tmp_path / ".env") == Settings()
    assert "cannot be read" in refusal({}, tmp_path)
    (tmp_path / ".env").write_bytes(b"OTHER=\xff\nCALLSHEET_URL=http://a.example\n")
    assert load({}, tmp_path / ".env").url == "http://a.example"  # what is not ours may be in any form
    (tmp_path / ".env").write_bytes(b"CALLSHEET_URL=http://\xff.example\n")
    assert "is not in UTF-8" in refusal({}, tmp_path / ".env")


def test_the_environment_wins_over_dotenv_whichever_form_is_used(tmp_path):
    (tmp_path / "secret").write_text(KEY)
    file = f"CALLSHEET_API_KEY_FILE={tmp_path / 'secret'}\n"
    dotenv = dotenv_of(tmp_path, f"CALLSHEET_LOG_LEVEL=DEBUG\nCALLSHEET_URL=http://a.example\n{file}")
    read = load({"CALLSHEET_LOG_LEVEL": "ERROR", "CALLSHEET_API_KEY": "e" * 32}, dotenv)
    assert (read.log_level, read.url, read.api_key) == ("ERROR", "http://a.example", Secret("e" * 32))
    other = dotenv_of(tmp_path, f"CALLSHEET_API_KEY={'f' * 32}")
    assert load({"CALLSHEET_API_KEY_FILE": str(tmp_path / "secret")}, other).api_key == Secret(KEY)


def test_a_typo_in_dotenv_is_an_error_too(tmp_path):
    assert "did you mean CALLSHEET_API_KEY" in refusal({}, dotenv_of(tmp_path, "CALLSHEET_APIKEY=x"))


@given(st.text())
def test_reading_any_dotenv_line_raises_only_the_error(line):
    try:
        settings._read_line("CALLSHEET" + line, ".env:1")
    except SettingsError:
        pass


# -- the table


def test_every_field_is_described_with_a_unit_and_a_sentence():
    described = {variable: (unit, doc) for variable, _, unit, doc in describe()}
    expected = {f"CALLSHEET_{row.name.upper()}" for row in dataclasses.fields(Settings)}
    expected -= {"CALLSHEET_PROVIDERS", "CALLSHEET_GIVEN"}
    expected |= {f"CALLSHEET_<PROVIDER>_{row.name.upper()}" for row in dataclasses.fields(ProviderSettings)}
    expected -= {"CALLSHEET_<PROVIDER>_OPTIONS"}
    assert set(described) == expected
    assert all(unit and len(doc) > 10 for unit, doc in described.values())


def test_the_described_defaults_are_the_real_ones():
    given = {variable: default for variable, default, _, _ in describe() if "<" not in variable}
    assert load(given) == load({}) == Settings()


def test_the_example_file_changes_nothing_and_uncommented_neither(tmp_path):
    example = env_example()
    assert load({}, dotenv_of(tmp_path, example)) == Settings()
    uncommented = re.sub(r"(?m)^#(CALLSHEET_\w+=)", r"\1", example)
    assert uncommented.count("\nCALLSHEET_") >= 18
    assert load({}, dotenv_of(tmp_path, uncommented)) == Settings()
    assert all(variable in example and doc in example for variable, _, _, doc in describe())


# -- properties


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080/prefix", True),
        ("http://LOCALHOST", True),
        ("http://app.localhost", True),
        ("https://callsheet.example", False),
        ("http://localhost.example", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0:8080", False),
        ("http://[2001:db8::1]", False),
    ],
)
def test_public_is_loopback(url, loopback):
    assert load({"CALLSHEET_PUBLIC_URL": url}).public_is_loopback is loopback


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///callsheet.db", "callsheet.db"),
        ("sqlite:////var/lib/callsheet.db", "/var/lib/callsheet.db"),
        ("postgresql:///callsheet", "None"),
        ("postgresql://db/callsheet", "None"),
    ],
)
def test_database_path(url, path):
    assert str(load({"CALLSHEET_DATABASE_URL": url}).database_path) == path


# -- master keys


def on_file(tmp_path, **more):
    return load({"CALLSHEET_DATABASE_URL": f"sqlite:///{tmp_path}/callsheet.db"} | more)


def test_sqlite_on_loopback_gets_a_key_file_once(tmp_path):
    vault = load_vault(on_file(tmp_path))
    key_file = tmp_path / "callsheet.db.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    blob = vault.seal(b"secret", row="r")
    text = key_file.read_text()
    assert load_vault(on_file(tmp_path)).open(blob, row="r") == b"secret"
    assert key_file.read_text() == text
    assert os.listdir(tmp_path) == ["callsheet.db.key"]


def test_a_race_for_the_key_file_has_one_winner(tmp_path):
    read = on_file(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        vaults = list(pool.map(lambda _: load_vault(read), range(64)))
    blob = vaults[0].seal(b"secret", row="r")
    assert {vault.open(blob, row="r") for vault in vaults} == {b"secret"}
    assert os.listdir(tmp_path) == ["callsheet.db.key"]


def test_given_master_keys_are_used_and_no_file_is_made(tmp_path):
    vault = load_vault(on_file(tmp_path, CALLSHEET_MASTER_KEYS=MASTER.replace("k1:", "k7:")))
    assert vault.key_id == "k7"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "environ",
    [{"CALLSHEET_DATABASE_URL": "postgresql://db/callsheet"}, {"CALLSHEET_PUBLIC_URL": "https://callsheet.example"}],
)
def test_elsewhere_master_keys_are_required(environ):
    with pytest.raises(SettingsError, match=r"CALLSHEET_MASTER_KEYS is required .*callsheet init"):
        load_vault(load(environ))


@pytest.mark.parametrize("content", [b"", b"canary", b"k1:canary", b"\xff"])
def test_a_damaged_key_file_is_refused_and_left_as_it_is(content, tmp_path):
    (tmp_path / "callsheet.db.key").write_bytes(content)
    with pytest.raises(SettingsError, match=r"callsheet\.db\.key is not usable") as refused:
        load_vault(on_file(tmp_path))
    assert "canary" not in str(refused.value)
    assert (tmp_path / "callsheet.db.key").read_bytes() == content


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match="CALLSHEET_MASTER_KEYS"):
        load_vault(on_file(tmp_path / "missing"))


def test_a_postgresql_url_gets_the_settings_for_its_connections_unless_it_has_its_own() -> None:
    def url(given: str, **more: str) -> str:
        return load(
            {"CALLSHEET_DATABASE_URL": given, **{f"CALLSHEET_DATABASE_{n.upper()}": v for n, v in more.items()}}
        ).database

    assert url("sqlite:///x.db", pool="9") == "sqlite:///x.db"
    assert url("postgres://h/d") == url("postgresql://h/d")
    assert url("postgresql://h/d") == "postgresql://h/d?pool=5&statement_cache=100"
    assert url("postgresql://h/d?pool=3", statement_cache="0") == "postgresql://h/d?pool=3&statement_cache=0"
