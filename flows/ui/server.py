"""Check that the Prefect server answers before a flow is started from a command line."""

from __future__ import annotations

from prefect import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from flows.repository.git import USER_OF_URL

DENIED = (401, 403)


def check_server() -> None:
    """Ask the server that the settings name. Where none is named, Prefect starts one for the run.

    Raises:
        ValueError: the server does not answer, or refuses the client.
    """
    address = get_current_settings().api.url
    if address is None:
        return
    public_address = USER_OF_URL.sub("***@", address)
    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        if code not in DENIED:
            raise ValueError(
                f"the Prefect server at {public_address} answers with HTTP status {code}; nothing was run"
            ) from error
        raise ValueError(
            f"the Prefect server at {public_address} refuses the client (HTTP status {code}): set "
            "PREFECT_API_AUTH_STRING=user:password to what it was started with (PREFECT_API_KEY for Prefect Cloud). "
            "Nothing was run"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"no Prefect server answers at {public_address}: start it (`make ui`), or unset PREFECT_API_URL "
            f"(`prefect config unset PREFECT_API_URL`) to run without one. Nothing was run ({error})"
        ) from error
