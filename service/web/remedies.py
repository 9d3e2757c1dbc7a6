"""Every error code with its title and remedy: what a problem's `type` resolves to."""

from service.states import Record


class Remedy(Record):
    title: str
    text: str


def _rows(*rows: tuple[str, str, str]) -> dict[str, Remedy]:
    return {code: Remedy(title=title, text=text) for code, title, text in rows}


REMEDIES = _rows(
    # 400
    ("bad_request", "The request was refused", "Read `detail`: it says what to change."),
    ("unreadable", "The request could not be read",
     "Send JSON in UTF-8, without a byte order mark, NaN, Infinity or lone surrogates. A callback's body must be in"
     " its provider's shape."),
    ("too_deep", "The body nests too deep", "At most 64 levels of objects and lists: flatten the body."),
    ("bad_idempotency_key", "The idempotency key cannot be used",
     "1 to 255 visible ASCII characters without spaces, bare or in double quotes; a UUID is a good one."),
    # 401, 403
    ("unauthenticated", "No valid API key",
     "Send `Authorization: Bearer <key>`. `callsheet keys create` makes a key; a revoked one is not accepted again."),
    ("key_expired", "The API key has expired", "Make a new key with `callsheet keys create` or POST /v1/keys."),
    ("bad_signature", "The callback's signature does not verify",
     "For providers: sign with the secret that is configured here. For operators: compare"
     " CALLSHEET_<PROVIDER>_CALLBACK_SECRET with the provider's dashboard;"
     " GET /v1/providers/{provider}/rejected-callbacks tells the reason."),
    ("forbidden", "The key does not allow this",
     "Use a key with the scope that `detail` names. Only an admin key may name a tenant in `Callsheet-Tenant`."),
    # 404, 405, 408
    ("not_found", "There is no such object",
     "Compare the id with the list that `detail` names. What another tenant owns is not found, either."),
    ("no_such_path", "There is nothing at this path", "See /docs for every path; there is no slash at the end."),
    ("unknown_job", "No job has this id",
     "For providers: send the callback again later. The job is polled meanwhile, so nothing is lost."),
    ("unknown_callback_url", "This callback URL is not one of ours",
     "Its token was not made here, or its credential is gone: register the URL anew."),
    ("method_not_allowed", "The path has no such method", "Use one that the `Allow` header names."),
    ("too_slow", "The request did not arrive in time",
     "The head of a request must arrive within 10 seconds and the whole body within 30: send it again."),
    # 409
    ("conflict", "The object's state does not allow this", "Read the object and decide anew."),
    ("cancel_unsupported", "The provider cannot cancel",
     "Only a queued job can be canceled here: wait for the end, or give a deadline with the next job."),
    ("already_terminal", "The job has ended", "Nothing is left to cancel: read its outputs or its error."),
    ("not_terminal", "The job has not ended", "Cancel it or wait for its end before erasing its content."),
    (
        "not_resubmittable",
        "The job went through as its caller sent it",
        "Its bytes are not kept to be sent again: `fail` it, and make the call anew.",
    ),
    ("not_unknown", "The job is not unknown", "Only a job whose submit has an unknown outcome is resolved."),
    ("id_already_bound", "The provider's id belongs to another job",
     "`detail` names the job that has it: compare both with the provider's own list."),
    ("already_followed", "A job with this provider id is here already", "Use the job that `detail` names."),
    ("changed_meanwhile", "Somebody else changed it", "Read it and send the change again."),
    ("correlation_reused", "The provider may have forgotten this id",
     "Under a repeated id a provider makes no second job for a while only, and nobody knows for how long: send a new"
     " id for a new job. `detail` names the job that had it."),
    ("too_many_endpoints", "The tenant has its endpoints", "Delete one that is not used any more."),
    ("tenant_in_use", "The tenant still owns something",
     "Revoke its keys and delete its endpoints; finished jobs go with their retention."),
    ("own_request", "The service called itself",
     "An endpoint, a callback_url or a provider's base URL leads back to this service: point it elsewhere. What"
     " forwards deliveries to it on purpose leaves out the header Callsheet-Sender."),
    ("endpoint_deleted", "The delivery's endpoint was deleted",
     "Nothing is sent to it any more. Make an endpoint, then POST /v1/events/{id}/replay sends the event there."),
    ("being_sent", "The delivery is being sent now", "Look at its attempts in a moment."),
    # 410
    ("gone", "It is not there any more", "Jobs are kept as long as CALLSHEET_RETENTION_JOBS_DAYS says."),
    ("content_erased", "The job's content was erased", "Somebody erased it on purpose: make it again by a new job."),
    ("result_expired", "The provider does not give the result any more",
     "Providers keep results for a while only, some for ten minutes: fetch them when the event comes. Make it again"
     " by a new job."),
    # 413, 414, 415, 416, 431
    ("too_large", "The body is too large",
     "A job takes 1 MiB, a callback 1 MiB unless its provider declares more, everything else 64 KiB."
     " Give large media by URL."),
    ("unsupported_media_type", "The body is in a form that is not read here",
     "Send JSON with `Content-Type: application/json` and without a Content-Encoding; a file as multipart/form-data."),
    ("unsupported_file_type", "The file is of a type that is not taken",
     "`detail` says which types are taken, or what the file's first bytes say that it is: declare that."),
    ("range_not_satisfiable", "The range is beyond the end", "`Content-Range` says how many bytes there are."),
    ("request_url_too_long", "The request's URL is too long", "Request line and headers may have 64 KiB: shorten it."),
    ("headers_too_large", "The request's headers are too large",
     "A request may have 100 header lines and 64 KiB of them, trailers included: leave some out."),
    # 422
    ("invalid", "The request is not valid", "`param` names the field and `detail` what it takes."),
    ("unknown_field", "A field is not known",
     "Correct its name, which `detail` guesses. Fields inside `input` are never refused for being unknown."),
    ("unknown_parameter", "A query parameter is not known", "Correct its name, which `detail` guesses."),
    ("unknown_filter", "No event has the field",
     "Correct the path, which `detail` guesses: a field of the event's `data`, with dots between its steps, such as"
     " `status`, `error.code` or `metadata.order`."),
    ("bad_cursor", "The cursor is not one of ours", "Take `next_cursor` of the page before, unchanged."),
    ("idempotency_key_reused", "The idempotency key was used with another body",
     "Send the same body to read the job again, or a new key for a new job."),
    ("unknown_to_provider", "The provider does not know this id",
     "Compare it with the provider's own list, under the account of the key that the job was sent with. The job is as"
     " it was: resolve it again."),
    ("no_credential", "There is no credential for the provider",
     "Give one with PUT /v1/providers/{provider}/credentials or CALLSHEET_<PROVIDER>_API_KEY, or set"
     " CALLSHEET_SANDBOX_URL to try it without one."),
    ("no_history", "The provider lists no history",
     "Look at its own dashboard, and settle each unknown job with POST /v1/jobs/{id}/resolve."),
    ("no_balance", "The provider tells no balance", "Look at its own dashboard."),
    ("over_budget", "The budget has no room for the job",
     "`detail` says what is left. GET /v1/budgets shows what open jobs reserve; an admin raises it with"
     " PUT /v1/budgets/{provider}."),
    ("bad_path", "The path could be read as another one",
     "Write the provider's path plainly: no dot segments, backslashes, control characters or broken escapes."),
    ("not_forwarded", "The request cannot be sent to the provider", "`detail` says what of it cannot be sent."),
    ("key_elsewhere", "The key stands elsewhere than in its header",
     "`detail` says where: take it out. It is swapped for the provider's in its header alone, and goes no further."),
    ("file_type", "The file is of another type than the field takes", "`detail` names the types: upload one of them."),
    ("file_too_large", "The file is larger than the provider takes", "`detail` says how large it may be."),
    ("file_unreachable", "The provider cannot fetch a file from here",
     "Set CALLSHEET_PUBLIC_URL to an address of this service that the provider can reach, or give a public URL."),
    ("url_address", "The URL's address may not be reached",
     "Deliveries go to public addresses. An operator opens a private network with CALLSHEET_EGRESS_ALLOW;"
     " a service whose CALLSHEET_PUBLIC_URL is on loopback delivers to loopback, too."),
    ("url_name", "The URL's host is no public name",
     "Give a public DNS name. An operator opens a private network with CALLSHEET_EGRESS_ALLOW; a service whose"
     " CALLSHEET_PUBLIC_URL is on loopback delivers to loopback, too."),
    ("url_scheme", "The URL is not https", "Use https. Plain http goes only to networks in CALLSHEET_EGRESS_ALLOW."),
    ("url_port", "The URL's port is refused", "Use 443, 80, or one from 1024 that no database or cluster has."),
    ("url_host", "The URL's host cannot be read", "Write a DNS name, or an IP address in its plain form."),
    ("url_own", "The URL is this service's own", "Give another: the service would call itself."),
    ("url_userinfo", "The URL has a user name", "Leave it out: put a key into the endpoint's `headers`."),
    ("url_characters", "The URL has characters that do not belong there", "Percent-encode them; leave `#` out."),
    ("url_malformed", "The URL is not absolute", "Give scheme, host and path, as in https://hooks.example.com/in."),
    ("url_too_long", "The URL is too long", "Shorten it: `detail` says how long it may be."),
    ("header_name", "A header may not be set", "Use Authorization, Api-Key, or a name that begins with X-."),
    ("header_value", "A header's value cannot be sent", "Printable ASCII only, as long as `detail` says."),
    ("header_count", "There are too many headers", "Give fewer, as `detail` says."),
    ("header_twice", "A header is there twice", "Names do not differ by case: give each once."),
    # 429, 5xx
    ("too_many", "A ceiling was reached", "Wait as long as `Retry-After` says."),
    ("storage_full", "The tenant's files fill their share",
     "Delete some with DELETE /v1/files/{id}, wait until they expire, or raise CALLSHEET_MAX_STORED_BYTES."),
    ("too_many_pending_jobs", "Too many jobs wait", "Wait as long as `Retry-After` says; nothing was accepted."),
    ("internal", "Our fault", "It is logged under `request_id`. With an idempotency key it is safe to try again."),
    ("unavailable", "Not now", "Wait as long as `Retry-After` says; nothing was accepted."),
    ("stopping", "This node is stopping", "Ask another one: it serves what still comes, and then is gone."),
    ("provider_unavailable", "The provider does not answer now",
     "Wait as long as `Retry-After` says. `callsheet doctor` looks whether it can be reached from here."),
    ("no_reply", "The provider's reply was lost",
     "Do not send it again: the provider may have accepted it. The header `Callsheet-Job-Id` and `detail` name the job;"
     " GET /v1/jobs/{id} finds out what became of it, or says that it is unknown."),
    ("reply_lost", "The reply to a submit was lost",
     "Do not send it again: the provider may have accepted it. The header `Callsheet-Job-Id` and `detail` name the job;"
     " GET /v1/jobs/{id} finds out what became of it, or says that it is unknown. An equal submit within ten minutes is"
     " not forwarded, and is answered once that is known; with the header `Callsheet-Repeat: new` another one is"
     " meant."),
    ("output_unavailable", "The output is not to be had now",
     "Try again later: the provider could not be reached, or answered what cannot be given on. `detail` says more."),
    ("store_unavailable", "The database cannot keep it now",
     "Wait as long as `Retry-After` says; nothing was accepted. For operators: look at the disk and the log."),
)  # fmt: skip
