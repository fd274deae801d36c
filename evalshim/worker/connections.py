"""Connections that are kept: upstream's OpenAIWrapper (vlmeval 0.0.20) opens one for each call.

Its module `api.gpt` posts with `requests`, here by a session that all threads of a cell share.
"""

import functools
import http.cookiejar
import threading
import time

import requests
import requests.sessions

from . import turns

# More than any run has calls in flight: what does not fit is closed behind its call.
_MOST = 4096
# Of the time that a byte may take, the whole answer may take so many.
_PATIENCE = 4

_local = threading.local()


class _Session(requests.Session):
    """Sends what `requests.post` would, and looks only once at what the environment says."""

    def __init__(self):
        super().__init__()
        # Each `requests.post` begins without cookies.
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        for scheme in ("http://", "https://"):
            self.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_MOST))
        self._settings = {}
        self._alike = {}

    def merge_environment_settings(self, url, proxies, stream, verify, cert):
        asked = (url, tuple((proxies or {}).items()), stream, verify, cert)
        if asked not in self._settings:
            self._settings[asked] = super().merge_environment_settings(*_copy(asked))
        return dict(self._settings[asked])

    def prepare_request(self, request):
        """What `requests` makes of a call; of calls alike, all but the body once."""
        given = (request.params, request.files, request.auth, request.cookies, request.json)
        if any(given) or any(request.hooks.values()):
            return super().prepare_request(request)
        alike = (request.method, request.url, tuple((request.headers or {}).items()))
        if alike not in self._alike:
            bare = requests.Request(request.method, request.url, request.headers)
            self._alike[alike] = super().prepare_request(bare)
        prepared = self._alike[alike].copy()
        prepared.prepare_body(request.data, None)
        return prepared

    def send(self, request, **kwargs):
        """Send what is ready to be sent, when it is its turn."""
        url, _local.url = _local.url, None
        if url is None:  # where a call was redirected to, within its turn
            return super().send(request, **kwargs)
        with turns.turn(url) as outcome:
            response = _whole(super().send(request, **kwargs), kwargs.get("timeout"))
            if response.encoding is None and response.content.isascii():
                response.encoding = "ascii"  # `text` would guess, for longer than the call takes
            outcome.learn(response.status_code, response.headers, response.text)
        return response


def _copy(asked):
    url, proxies, *rest = asked
    return (url, dict(proxies), *rest)


def _whole(response, timeout):
    """A response with its content, which `requests` reads for as long as anything comes."""
    if timeout and hasattr(response.raw, "read1"):  # urllib3 2.1
        until = time.monotonic() + _PATIENCE * timeout
        response.raw.stream = functools.partial(_pieces, response, until, timeout)
    _ = response.content
    return response


def _pieces(response, until, timeout, size, decode_content=True):
    while piece := response.raw.read1(size, decode_content=decode_content):
        yield piece
        if time.monotonic() > until:
            response.close()
            raise requests.exceptions.ReadTimeout(f"no whole answer in {_PATIENCE} x {timeout:g} s")


class _Requests:
    """The module `requests`, but for `post`."""

    def __init__(self):
        self._session = None

    def __getattr__(self, name):
        return getattr(requests, name)

    def post(self, url, **kwargs):
        # Two threads may each make one at the start; one of them is kept.
        session = self._session = self._session or _Session()
        _local.url = url
        try:
            return session.post(url, stream=True, **kwargs)
        finally:
            _local.url = None


def keep():
    """Let the calls of a process share its connections."""
    from vlmeval.api import gpt

    assert gpt.requests is requests
    # Asked for each request, `~/.netrc` is read from the disk.
    requests.sessions.get_netrc_auth = functools.lru_cache(requests.utils.get_netrc_auth)
    gpt.requests = _Requests()
