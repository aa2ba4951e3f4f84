"""What a backend raises → one of our errors, in one line that names the URI.

Every backend has an exception tree of its own. s3fs turns botocore's errors into OSErrors and
keeps the original as their cause, which has the store's own code; that code decides first, then
the HTTP status, then the class.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import (
    CredentialsError,
    ForbiddenError,
    MissingError,
    StorageError,
    TesseraError,
    UnavailableError,
)

_CLOCK = "this machine's clock is wrong: set it (NTP)"
_RENEW = "the session token has expired: log in again, or renew the credentials"
_SECRET = "the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY"
_ABSENT = (
    "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or AWS_PROFILE, or give the machine a role"
)
_LOGIN = "the credentials could not be fetched: check the profile or role, and log in again"

# What is wrong with the credentials and what to do, by the store's code or the client's class.
CREDENTIALS = {
    "InvalidAccessKeyId": "the store does not know the access key: check AWS_ACCESS_KEY_ID",
    "InvalidClientTokenId": "the store does not know the access key: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": _SECRET,
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "InvalidSecurity": "the security credentials are not valid: check them",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "NotSignedUp": "the account is not signed up for this store",
    "NoCredentialsError": _ABSENT,
    "PartialCredentialsError": "the credentials are incomplete: both key and secret are needed",
    "CredentialRetrievalError": _LOGIN,
    "ProfileNotFound": "the profile does not exist: check AWS_PROFILE",
    "NoAuthTokenError": _LOGIN,
    "TokenRetrievalError": _LOGIN,
    "SSOError": _LOGIN,
    "LoginError": _LOGIN,
    "RefreshError": _LOGIN,  # google.auth
    "DefaultCredentialsError": "no credentials were found: log in, or give the machine a role",
    "ClientAuthenticationError": _LOGIN,  # azure.core
}  # fmt: skip
FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidObjectState"}
MISSING = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion"}
TRANSIENT = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted",
    "ConditionalRequestConflict", "Throttling", "ThrottlingException", "TooManyRequests",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "IncompleteBody", "BadDigest",
    "XAmzContentSHA256Mismatch",
}  # fmt: skip
# Classes of botocore, urllib3, aiohttp, fsspec, Google and Azure; builtins count by inheritance.
_TRANSIENT_CLASSES = {
    "TimeoutError", "ConnectionError", "HTTPClientError", "IncompleteRead", "IncompleteReadError",
    "ClientPayloadError", "ClientConnectionError", "ServerDisconnectedError", "FSTimeoutError",
    "ResponseParserError", "TransportError", "ServiceRequestError", "ServiceResponseError",
}  # fmt: skip
_DEFINITE_CLASSES = {"SSLError", "InvalidProxiesConfigError"}
_NO_ANSWER = {"400", "403"}
"""Codes of an answer without a body, as those to HEAD are: they don't say which fault it was."""

_SECRETS = re.compile(
    r"(?i)((?:signature|credential|token|password|secret|key|x-amz-[\w-]+|awsaccesskeyid)=)[^&\s\"']+"
    r"|(?<=://)[^/\s@]+@"
)


@contextlib.contextmanager
def named(uri: str, verb: str, fs: Any = None, path: str = "") -> Iterator[None]:
    """Turn what a backend raises into one of our errors: `cannot read s3://b/k: …`; ours stay.

    Args:
        uri: what the message names.
        verb: what was being done with it.
        fs: the file system, which may be asked why it refused.
        path: the path in it.
    """
    try:
        yield
    except TesseraError:
        raise
    except Exception as error:
        raise _ours(error, f"cannot {verb} {uri}", fs, path) from error


def of_content(error: BaseException) -> bool:
    """Whether pyarrow tells by it that a file does not hold what it should."""
    bare = type(error) is OSError and error.errno is None
    return bare or isinstance(error, pa.ArrowException)


def code_of(error: BaseException) -> str:
    """The store's own code of an error, such as `SlowDown`; empty where there is none."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code") or "")
    return ""


def one_line(error: BaseException) -> str:
    """The message of an error in one line, without what may be a secret."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _SECRETS.sub(lambda match: (match[1] or "") + "…", text)[:300]


def _ours(error: Exception, what: str, fs: Any, path: str) -> StorageError:
    code = code_of(error)
    cause = error.__cause__
    # To fsspec's HTTP, a file is not there whatever the fault of the server was.
    if (
        isinstance(error, FileNotFoundError)
        and isinstance(cause, Exception)
        and _is_transient(cause, code, _classes(cause))
    ):
        error = cause
    if code in _NO_ANSWER and fs is not None:
        code = _reason(fs, path) or code
    names = {code} | _classes(error)
    problem = next((text for name, text in CREDENTIALS.items() if name in names), None)
    if problem or code == "401" or _status(error) == 401:
        return CredentialsError(f"{what}: {problem or 'the store did not accept the credentials'}")
    if code in MISSING or isinstance(error, FileNotFoundError) or _status(error) == 404:
        return MissingError(f"{what}: it does not exist")
    if _is_transient(error, code, names):
        return UnavailableError(f"{what}: the store did not answer as it should: {_text(error)}")
    if code in FORBIDDEN or isinstance(error, PermissionError) or _status(error) == 403:
        return ForbiddenError(f"{what}: access is denied")
    return StorageError(f"{what}: {_file_on_the_way(error) or _text(error)}")


def _classes(error: Exception) -> set[str]:
    """Names of the classes of an error and of what it was raised from."""
    return {cls.__name__ for link in _chain(error) for cls in type(link).__mro__}


def _is_transient(error: Exception, code: str, names: set[str]) -> bool:
    if names & _DEFINITE_CLASSES:
        return False
    # Classes before the status: aiohttp gives a body that was cut short the status 400.
    if code in TRANSIENT or names & _TRANSIENT_CLASSES:
        return True
    stale = isinstance(error, OSError) and error.errno == errno.ESTALE  # a network file system
    return stale or _status(error) in (408, 429) or _status(error) >= 500


def _reason(fs: Any, path: str) -> str:
    """Ask an S3 store again in a way whose answer has a body, to learn the code of a refusal."""
    if "s3" not in fs.protocol:
        return ""
    try:
        fs.call_s3("list_objects_v2", Bucket=fs.split_path(path)[0], MaxKeys=1)
    except Exception as error:
        return code_of(error)
    return ""


def _status(error: BaseException) -> int:
    """The HTTP status of an error, 0 where there is none."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        for name in ("status", "status_code", "code"):  # aiohttp, azure.core, gcsfs
            status = getattr(link, name, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status
    return 0


def _file_on_the_way(error: Exception) -> str:
    """Where a local path leads through a file: which; else empty."""
    place = str(getattr(error, "filename", None) or "")
    while isinstance(error, NotADirectoryError | FileExistsError) and place.strip("/"):
        if os.path.isfile(place):
            return f"{place} is a file, not a folder"
        place = os.path.dirname(place)
    return ""


def _text(error: BaseException) -> str:
    code = code_of(error)
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    text = one_line(error)
    if type(error) is OSError:  # the system's: without its number and the name of a temporary file
        text = (
            str(error.strerror) if error.filename else text.removeprefix(f"[Errno {error.errno}] ")
        )
    return text if code in text else f"{code}: {text}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__
