"""What lies between a run and its endpoints: certificates, headers, redirects."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.conftest import HEEDED

from .conftest import rows, shim
from .talkative import Talkative
from .test_judges import SUMS, write

pytestmark = pytest.mark.timeout(900)

KEY, JUDGE_KEY, HEADER = "sk-of-the-model-0123", "sk-of-the-judge-4567", "of-the-header-89ab"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def secured(authority: trustme.CA) -> Iterator[Talkative]:
    """An endpoint whose certificate no system knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Talkative(tls=context) as served:
        yield served


def _run(
    folder: Path, model: dict[str, Any], judge: dict[str, Any], *flags: str
) -> subprocess.CompletedProcess[str]:
    """A model and a judge on a set of each upstream."""
    write(folder, "oc", "")
    path = write(folder, "mcq", "mine")
    raw = {
        "models": [{"name": "m", "retry": 1, "key_env": "KEY", **model}],
        "datasets": [
            {"name": "mine", "path": str(path), "format": "mcq"},
            {"name": "sums", "dataset": f"opencompass:{SUMS}"},
        ],
        "judge": {"model": "m", "retry": 1, "key_env": "JUDGE_KEY", **judge},
        "limit": 2,
        "retries": 0,
    }
    (folder / "eval.json").write_text(json.dumps(raw))
    with pytest.MonkeyPatch.context() as patch:
        for variable in (*HEEDED, "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            patch.delenv(variable, raising=False)
        return shim(
            "run", "eval.json", "--json", *flags, cwd=folder,
            KEY=KEY, JUDGE_KEY=JUDGE_KEY, COMPASS_DATA_CACHE=str(folder / "cache"),
        )  # fmt: skip


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path, secured: Talkative) -> None:
    at = {"api_base": secured.url("good")}
    done = _run(tmp_path, at, {"api_base": secured.url("grader")})

    assert done.returncode == 3
    assert done.stderr.count("its TLS certificate is not trusted") == 2
    assert "`ca_bundle: FILE`" in done.stderr
    assert secured.asked == []

    # Nor does the worker ask it, where nobody looked before: VLMEvalKit's requests and
    # OpenCompass's httpx.
    done = _run(tmp_path, at, {"api_base": secured.url("grader")}, "--no-preflight")

    assert done.returncode == 1
    assert [row["status"] for row in rows(done)] == ["failed", "failed"]
    assert all("certificate" in row["error"].lower() for row in rows(done)[:1])
    assert secured.asked == []


@pytest.mark.parametrize("how", ["ca_bundle", "verify"])
def test_a_certificate_is_trusted_where_that_is_said(
    how: str, tmp_path: Path, secured: Talkative, bundle: Path
) -> None:
    trusting = {"ca_bundle": str(bundle)} if how == "ca_bundle" else {"verify": False}
    done = _run(
        tmp_path,
        {"api_base": secured.url("good"), **trusting},
        {"api_base": secured.url("grader"), **trusting},
    )

    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in rows(done)} == {"scored"}
    assert {h["authorization"] for h in secured.headers("good")} == {f"Bearer {KEY}"}
    assert {h["authorization"] for h in secured.headers("grader")} == {f"Bearer {JUDGE_KEY}"}


def test_what_a_model_is_trusted_with_says_nothing_of_its_judge(
    tmp_path: Path, secured: Talkative, bundle: Path
) -> None:
    model = {"api_base": secured.url("good"), "verify": False}
    done = _run(tmp_path, model, {"api_base": secured.url("grader")}, "--no-preflight")

    assert done.returncode == 1
    assert {row["status"] for row in rows(done)} == {"failed"}
    assert len(secured.headers("good")) == 4
    assert secured.headers("grader") == []


def test_a_redirect_takes_no_key_along(tmp_path: Path) -> None:
    with Talkative() as target, Talkative(leads_to=target.url("good")) as source:
        # Another name of this machine: another host.
        source.leads_to = target.url("good").replace("127.0.0.1", "localhost")
        at = {"api_base": source.url("redirect")}
        model = {**at, "headers": {"api-key": HEADER, "X-Team": HEADER}}
        done = _run(tmp_path, model, at, "--no-preflight")

    assert done.stdout, done.stderr
    sent = source.headers("redirect")
    assert {h["authorization"] for h in sent} >= {f"Bearer {KEY}"}
    assert {h.get("api-key") for h in sent} >= {HEADER}
    # requests follows, and so does the preflight; it is the key that stays behind.
    assert target.asked
    told = json.dumps([(dict(headers), body) for _, headers, body in target.asked])
    assert not [key for key in (KEY, JUDGE_KEY, HEADER) if key in told]


def test_a_redirect_takes_no_key_in_a_body_along(tmp_path: Path) -> None:
    with Talkative() as target, Talkative() as source:
        source.leads_to = target.url("good").replace("127.0.0.1", "localhost")
        model = {"api_base": source.url("redirect"), "extra_body": {"my": {"api_key": HEADER}}}
        done = _run(tmp_path, model, {"api_base": target.url("grader")}, "--no-preflight")

    assert HEADER in json.dumps([body for _, _, body in source.asked])
    assert "redirected to another host, with a key in the request" in done.stdout
    assert target.headers("good") == []


def test_the_preflight_takes_no_key_to_another_host_either(tmp_path: Path) -> None:
    with Talkative() as target, Talkative() as source:
        source.leads_to = target.url("good").replace("127.0.0.1", "localhost")
        at = {"api_base": source.url("redirect")}
        done = _run(tmp_path, {**at, "headers": {"api-key": HEADER}}, at, "--dry-run")
        assert done.returncode == 0, done.stderr
        checked = shim(
            "check", "eval.json", cwd=tmp_path, KEY=KEY, JUDGE_KEY=JUDGE_KEY,
            COMPASS_DATA_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip

    assert "redirect" in checked.stdout
    assert {h.get("api-key") for h in source.headers("redirect")} >= {HEADER}
    told = json.dumps([(dict(headers), body) for _, headers, body in target.asked])
    assert target.asked
    assert not [key for key in (KEY, JUDGE_KEY, HEADER) if key in told]


_CHECKED = """
import ssl, sys, types
package = types.ModuleType("evalshim_worker")
package.__path__ = [sys.argv[1]]
sys.modules["evalshim_worker"] = package
from evalshim_worker import transport
before = ssl._create_default_https_context
if sys.argv[2] == "ours":
    with transport.certificates_checked():
        import vlmeval
else:
    import vlmeval
print(ssl._create_default_https_context is before)
"""


@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_vlmeval_takes_the_check_of_certificates_from_urllib_and_the_worker_puts_it_back(
    how: str, environments: dict[str, Path], tmp_path: Path
) -> None:
    """Fails with `theirs` as soon as upstream does so no longer."""
    worker = Path(__file__).parents[2] / "evalshim" / "worker"
    done = subprocess.run(
        [environments["vlmeval"], "-c", _CHECKED, worker, how],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == str(how == "ours")
