"""A secret is known by its name, and what only sounds like one is none."""

from __future__ import annotations

import pytest

from crewai_dbos._secrets.finding import of_environment
from crewai_dbos._secrets.words import names_a_secret

SECRETS = """\
OPENAI_API_KEY OPENAI_KEY APIKEY apiKey api-key _api_key --api-key X-Api-Key x_functions_key
Ocp-Apim-Subscription-Key AWS_ACCESS_KEY_ID aws_secret_access_key aws_session_token AccountKey
accountkey SharedAccessKey SharedAccessSignature API_KEY_2 KEY_PROD privateKey SIGNING_KEY
TOKEN GITHUB_TOKEN X-Auth-Token authToken id_token --token HF_TOKEN
SECRET CLIENT_SECRET clientSecret VAULT_SECRET_ID STRIPE_SECRET_LIVE
PASSWORD DB_PASSWORD PGPASSWORD dbPassword PASSWORD_PROD MYSQL_PWD DB_PWD DB_PASS SMTPPASS passwd
PASSPHRASE GPG_PASSPHRASE CREDENTIALS GOOGLE_CREDENTIALS_JSON DB_CREDS
DSN SENTRY_DSN GITHUB_PAT JWT SESSION_JWT SAS AZURE_SAS AUTH BASIC_AUTH Authorization
Proxy-Authorization Cookie Set-Cookie SLACK_WEBHOOK SLACK_WEBHOOK_URL
AZURE_STORAGE_CONNECTION_STRING conn_str
"""

OTHERS = """\
TOKENIZERS_PARALLELISM KEYBOARD KEYBOARD_LAYOUT max_tokens total_tokens token_count TOKEN_LIMIT
TOKEN_BUDGET token_usage _token_process stop_tokens next_page_token pad_token
MONKEY MONKEYPATCH HOTKEY AUTHOR AUTHORS PASSENGER BYPASS COMPASS TRESPASS PATH PATTERN PATIENT
SECRETARY COOKIECUTTER_CONFIG CREDITS SASL_MECHANISM KEYRING_BACKEND
PUBLIC_KEY publicKey primary_key sort_key cache_key idempotency_key output_key
DB_PASSWORD_FILE AUTH_TYPE AUTH_URL TOKEN_URL OAUTH_CLIENT_ID SSH_AUTH_SOCK api_key_env_var
AUTH_ENABLED PASSWORD_POLICY webhook_port Content-Type User-Agent name description
"""


@pytest.mark.parametrize("name", SECRETS.split())
def test_it_names_a_secret(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_it_names_none(name: str) -> None:
    assert not names_a_secret(name)


def found_as(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv(name, value)
    return [found.text for found in of_environment() if found.name.partition("[")[0] == name]


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("SHOP_PAT", "correct-horse-battery", ["correct-horse-battery"]),
        ("SHOP_PAT", "shorter", []),
        ("SHOP_NAME", "correct-horse-battery", []),
        ("SHOP_PAT", "OPENAI_API_KEY", []),
        ("SHOP_AUTH", "disabled", []),
        ("PWD", "/somewhere/else", []),
        ("SHOP_KEY", "/", []),
        # Whatever they are called.
        ("SHOP", "sk-proj-0123456789abcdef0123", ["sk-proj-0123456789abcdef0123"]),
        ("SHOP", "ghp_" + "a1B2c3D4" * 4, ["ghp_" + "a1B2c3D4" * 4]),
        ("SHOP", "github_pat_" + "a1B2c3D4" * 4, ["github_pat_" + "a1B2c3D4" * 4]),
        ("SHOP", "glpat-0123456789abcdef0123", ["glpat-0123456789abcdef0123"]),
        ("SHOP", "xoxb-0123456789-abcdef", ["xoxb-0123456789-abcdef"]),
        ("SHOP", "AKIAIOSFODNN7EXAMPLE", ["AKIAIOSFODNN7EXAMPLE"]),
        ("SHOP", "AIzaSyA" + "a1B2c3D4" * 4, ["AIzaSyA" + "a1B2c3D4" * 4]),
        ("SHOP", "hf_" + "a1B2c3D4" * 4, ["hf_" + "a1B2c3D4" * 4]),
        ("SHOP", "eyJhbGciOiJ9.eyJzdWIiOiIxIn0.c2ln", ["eyJhbGciOiJ9.eyJzdWIiOiIxIn0.c2ln"]),
        ("SHOP", "postgresql://me:url-password-2@localhost/db", ["url-password-2"]),
        ("SHOP", "https://shop.test/?a=1&sig=signature-1", ["signature-1"]),
        ("SHOP", "AccountName=shop;AccountKey=accountkey1==;E=x", ["accountkey1=="]),
        ("SHOP", "host=db user=me password=libpq-password", ["libpq-password"]),
        ("SHOP", '{"type": "x", "private_key": "private-key-1"}', ["private-key-1"]),
        ("SHOP", "Bearer abcdef0123456789abcdef", ["abcdef0123456789abcdef"]),
    ],
)  # fmt: skip
def test_a_variable_of_the_environment(
    name: str, value: str, secrets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(set(found_as(name, value, monkeypatch))) == secrets


def test_a_private_key_is_known_whatever_its_variable_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0=\n-----END PRIVATE KEY-----"
    assert set(found_as("SHOP", f"{key}\n", monkeypatch)) == {key}


def test_parts_of_a_secret_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, value: str) -> set[str]:
        return set(found_as(name, value, monkeypatch))

    # dXNlcjpiYXNpYy1wYXNzd29yZA== is user:basic-password.
    sent = "dXNlcjpiYXNpYy1wYXNzd29yZA=="
    assert found("SHOP_AUTH", f"Basic {sent}") == {f"Basic {sent}", sent, "basic-password"}
    assert found("SHOP_AUTH", "me:the-password") == {"me:the-password", "the-password"}
    assert found("SHOP_COOKIE", "sid=session-0001; Path=/shop/admin") == {
        "sid=session-0001; Path=/shop/admin",
        "session-0001",
    }
    hook = "https://hooks.test/services/T00000000/B00000000/abcdefgh"
    assert found("SHOP_WEBHOOK_URL", hook) == {hook, "/services/T00000000/B00000000/abcdefgh"}
    dsn = "postgresql://me:dsn-password@localhost/db"
    assert found("SHOP_DSN", dsn) == {dsn, "dsn-password"}


def test_a_path_is_no_secret(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("keys") / "credentials.json"
    path.write_text("{}")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert found_as("GOOGLE_APPLICATION_CREDENTIALS", str(path), monkeypatch) == []
