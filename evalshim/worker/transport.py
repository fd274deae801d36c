"""How requests of upstream's reach their endpoint: certificates, headers, redirects.

A cell's model and its judge each have `{"headers": {...}, "verify": true | false | FILE}`, or
null. A header may say `${VARIABLE}`, as may what else comes out of a configuration with a secret
in it: the value is in the environment (evalshim/secret_values.py).
"""

import contextlib
import functools
import os
import re
import ssl
import threading

from . import channel

_PLAIN = {"headers": {}, "verify": True}

_local = threading.local()
_variables = set()


def know(variables):
    """Heed `${VARIABLE}` for each of `variables`, and for no other."""
    _variables.update(variables)


def filled(value):
    """`value` with each `${VARIABLE}` put in."""
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(filled(item) for item in value)
    if isinstance(value, str) and "${" in value:
        return re.sub(r"\$\{(\w+)\}", _value, value)
    return value


def _value(found):
    return os.environ.get(found[1], found[0]) if found[1] in _variables else found[0]


@contextlib.contextmanager
def certificates_checked():
    """Import VLMEvalKit without what it does to urllib: `vlmeval/__init__.py` (0.0.20) takes
    the check of certificates from every https:// of the process."""
    before = ssl._create_default_https_context
    try:
        yield
    finally:
        ssl._create_default_https_context = before


def through(settings, call):
    """`call` with its requests sent as `settings` say."""
    if not settings:
        return call

    @functools.wraps(call)
    def sent(*args, **kwargs):
        before = getattr(_local, "settings", None)
        _local.settings = settings
        try:
            return call(*args, **kwargs)
        finally:
            _local.settings = before

    return sent


def install():
    """Let requests, by which VLMEvalKit (0.0.20) asks its API models, heed the settings of the
    call under way, and take no key along to another host: by itself it drops `Authorization`
    alone."""
    from requests.exceptions import InvalidURL
    from requests.sessions import Session

    request, rebuild_auth = Session.request, Session.rebuild_auth

    def asked(self, method, url, **kwargs):
        settings = getattr(_local, "settings", None)
        if settings:
            kwargs.setdefault("verify", settings["verify"])
            kwargs["headers"] = {**(kwargs.get("headers") or {}), **filled(settings["headers"])}
        return request(self, method, url, **kwargs)

    def rebuilt(self, prepared, response):
        rebuild_auth(self, prepared, response)
        if self.should_strip_auth(response.request.url, prepared.url):
            settings = getattr(_local, "settings", None) or _PLAIN
            for name in ("api-key", *settings["headers"]):
                prepared.headers.pop(name, None)
            if _has_secret(prepared.body):
                raise InvalidURL("redirected to another host, with a key in the request")

    Session.request, Session.rebuild_auth = asked, rebuilt


def _has_secret(body):
    text = body.decode("latin-1") if isinstance(body, bytes) else str(body or "")
    return channel.redact(text) != text


def httpx_arguments(settings):
    """Arguments of httpx's client for the same."""
    settings = settings or _PLAIN

    def stay_at_home(request):
        # httpx takes this one from a request that is redirected to another host.
        if "authorization" not in request.headers:
            for name in ("api-key", *settings["headers"]):
                request.headers.pop(name, None)

    verify = settings["verify"]
    if isinstance(verify, str):
        verify = ssl.create_default_context(cafile=verify)
    return {"verify": verify, "event_hooks": {"request": [stay_at_home]}}
