"""Presigned addresses of STS: signed as AWS documents it, checked as AWS checks them, followed as a cluster follows them."""

from __future__ import annotations

import hashlib
import hmac
import time
import urllib.error
import urllib.request
from calendar import timegm
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit
from xml.etree import ElementTree

CLUSTER_HEADER = "x-k8s-aws-id"
#: AWS takes an address for a quarter of an hour.
GOOD_FOR_SECONDS = 900


def signature(url: str, secret: str, cluster: str) -> str:
    """Sign an address as AWS does when it checks one: Signature Version 4, written down from its documentation."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query.pop("X-Amz-Signature")
    canonical_query = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items()))
    canonical = "\n".join(
        [
            "GET",
            parts.path,
            canonical_query,
            f"host:{parts.netloc}",
            f"x-k8s-aws-id:{cluster}",
            "",
            "host;x-k8s-aws-id",
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    scope = query["X-Amz-Credential"].split("/", 1)[1]
    text = "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def caller(url: str, cluster: str) -> str:
    """Ask STS who signed an address, as a cluster does: with its own name as header. Gives an ARN.

    :raises PermissionError: AWS does not take it.
    """
    request = urllib.request.Request(url, headers={CLUSTER_HEADER: cluster})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            tree = ElementTree.fromstring(answer.read())
    except urllib.error.HTTPError as error:
        raise PermissionError(error.read().decode()) from None
    return next(str(element.text) for element in tree.iter() if element.tag.endswith("Arn"))


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Presigned:
    """A server of AWS that understands presigned addresses of STS, which moto takes for requests to S3.

    The signature is checked, so that nobody gets in with an address made for another cluster.

    :param inner: moto's application.
    :param secrets: secret keys by their access key.
    """

    def __init__(self, inner: Application, secrets: Callable[[], dict[str, str]]) -> None:
        self._inner = inner
        self._secrets = secrets

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = parse_qs(environ.get("QUERY_STRING", ""))
        if query.get("Action") == ["GetCallerIdentity"] and "X-Amz-Credential" in query:
            credential = query["X-Amz-Credential"][0]
            if problem := self._problem(environ, query, credential.partition("/")[0]):
                start_response("403 Forbidden", [("Content-Type", "text/xml")])
                return [f"<ErrorResponse><Error><Code>{problem}</Code></Error></ErrorResponse>".encode()]
            # By this header moto finds the service and the caller.
            environ["HTTP_AUTHORIZATION"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"
        return self._inner(environ, start_response)

    def _problem(self, environ: dict[str, Any], query: dict[str, list[str]], key: str) -> str | None:
        secret = self._secrets().get(key)
        if secret is None:
            return "InvalidClientTokenId"
        signed = timegm(time.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ"))
        if not -60 < time.time() - signed < GOOD_FOR_SECONDS:
            return "ExpiredToken"
        url = f"http://{environ['HTTP_HOST']}{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        wanted = signature(url, secret, environ.get("HTTP_X_K8S_AWS_ID", ""))
        if not hmac.compare_digest(wanted, query["X-Amz-Signature"][0]):
            return "SignatureDoesNotMatch"
        return None
