"""Where a service is known to differ from the contract: service -> how it differs -> the cases.

The test then has to fail there. No case may be here for every service that others wrote, unless
`ALONE` says why the sandbox is right and all of them are not. A case is a test's name, and its
`case` parameter after a colon.
"""

from collections.abc import Iterator

BAD = "test_a_bad_request_is_refused"
PARENTS_CLOSED = "test_who_became_a_parent_is_told_as_closed_and_nobody_else"
HIGHER_IDS = "test_shards_that_are_opened_have_higher_ids_than_their_parents"
KEY_LANDS = "test_a_key_lands_on_the_open_shard_that_holds_its_hash_key"
BOTH_ENDS = "test_both_ends_of_every_open_range_belong_to_it"
STAYS = "test_what_was_written_before_stays_on_the_closed_shard"
ENFORCED = "test_a_stream_with_consumers_is_not_deleted_by_mistake"
UPDATES = ("6", "2", "4")  # ways of test_resharding.py that are UpdateShardCount
WAYS = ("split", "merge", "split and merge", *UPDATES)

_BY_SERVICE: dict[str, dict[str, tuple[str, ...]]] = {
    "sandbox": {},
    "moto": {
        "answers HTTP 500 where a member is missing or of another type": (
            f"{BAD}:records missing",
            f"{BAD}:records null",
            f"{BAD}:data missing",
            f"{BAD}:hash key no number",
            f"{BAD}:hash key a number",
            f"{BAD}:data a number",
            f"{BAD}:data not base64",
            f"{BAD}:record a string",
            "test_a_bad_create_is_refused:no shards",
            "test_a_made_up_iterator_is_refused",
            "test_the_highest_hash_key_belongs_to_the_last_shard",
            *(f"{BOTH_ENDS}:{way}" for way in WAYS),
            "test_an_unknown_operation_is_refused",
        ),
        "does not check this and takes the request": (
            f"{BAD}:no records",
            f"{BAD}:records a map",
            f"{BAD}:empty key",
            f"{BAD}:data base64 cut",
            f"{BAD}:hash key leading zero",
            "test_put_record_is_held_to_the_same_limits",
            "test_a_refused_request_leaves_nothing_behind",
            "test_a_bad_stream_name_is_refused:wrong characters",
            "test_a_bad_create_is_refused:no name",
            "test_a_bad_create_is_refused:bad name",
            "test_a_token_and_a_name_exclude_each_other",
            "test_a_split_needs_a_key_inside_the_shard:lowest + 1",
            "test_the_shard_count_does_not_more_than_double",
            "test_what_is_out_of_bounds_is_refused:limit",
        ),
        "refuses it under another name": (
            f"{BAD}:key of 257",
            f"{BAD}:key missing",
            f"{BAD}:hash key negative",
            "test_a_bad_stream_name_is_refused:empty",
            "test_a_bad_stream_name_is_refused:too long",
            "test_no_stream_is_refused",
            "test_a_body_that_is_no_json_object_is_refused:cut off",
            "test_a_body_that_is_no_json_object_is_refused:empty",
            "test_a_body_that_is_no_json_object_is_refused:null",
            "test_a_wrong_content_type_is_no_operation",
            "test_what_is_out_of_bounds_is_refused:kind",
        ),
        "goes on writing to a closed shard, which never ends": (
            "test_after_a_split_records_go_to_the_children",
            "test_a_closed_shard_comes_to_an_end",
            "test_the_end_of_a_closed_shard_names_its_children",
            "test_a_merge_closes_two_and_opens_one",
            *(f"{case}:{way}" for case in (KEY_LANDS, STAYS) for way in WAYS),
        ),
        "has a consumer ACTIVE at once": ("test_a_consumer_is_created_and_becomes_active",),
        "registers a name again, and for a stream that is not there": (
            "test_a_consumers_name_is_taken_once",
            "test_a_stream_that_is_not_there_has_no_consumers",
        ),
        "deletes a stream that has consumers": (ENFORCED,),
        "lists the tag again after which it is asked to begin": ("test_tags_are_listed_in_pages",),
        "counts no open shards": ("test_the_limits_of_the_account_count_open_shards",),
        "has no warm throughput": ("test_a_stream_is_kept_warm_on_demand_alone",),
        "ignores ShardFilter": ("test_shards_at_latest_are_the_open_ones",),
        "does not find the stream of a NextToken that comes alone": (
            "test_shards_are_listed_in_pages",
        ),
    },
    "kinesalite": {
        "predates StreamARN": (
            "test_a_stream_may_be_named_by_arn:PutRecord",
            "test_a_stream_may_be_named_by_arn:PutRecords",
        ),
        "predates consumers": (
            "test_a_consumer_is_created_and_becomes_active",
            "test_consumers_are_listed",
            "test_a_consumers_name_is_taken_once",
            "test_a_consumer_that_was_deregistered_is_not_found",
            "test_a_stream_that_is_not_there_has_no_consumers",
            ENFORCED,
        ),
        "predates DescribeLimits": ("test_the_limits_of_the_account_count_open_shards",),
        "predates streams on demand": (
            "test_a_stream_is_switched_to_on_demand_and_back",
            "test_a_stream_is_kept_warm_on_demand_alone",
        ),
        "predates UpdateShardCount": (
            "test_the_shard_count_is_updated:6",
            "test_the_shard_count_is_updated:2",
            "test_the_shard_count_is_updated:4",
            *(
                f"{case}:{way}"
                for case in (PARENTS_CLOSED, HIGHER_IDS, KEY_LANDS, BOTH_ENDS, STAYS)
                for way in UPDATES
            ),
        ),
        "predates ShardFilter, pages of ListShards and ChildShards": (
            "test_shards_at_latest_are_the_open_ones",
            "test_shards_are_listed_in_pages",
            "test_the_end_of_a_closed_shard_names_its_children",
        ),
        "splits a closed shard": ("test_a_closed_shard_is_not_split_again",),
        "counts the data alone": (f"{BAD}:data and key over 1 MiB",),
        "has its own limit of 7 MiB on the HTTP body: 413 and no body": (f"{BAD}:over 10 MiB",),
        "does not anchor the pattern of explicit hash keys": (
            f"{BAD}:hash key no number",
            f"{BAD}:hash key negative",
            f"{BAD}:hash key leading zero",
        ),
        "asks for an Authorization header": ("test_a_request_without_authorization_is_answered",),
    },
    "kinesis_local": {
        "does not check this and takes the request": (
            f"{BAD}:no records",
            f"{BAD}:501 records",
            f"{BAD}:data and key over 1 MiB",
            f"{BAD}:data base64 cut",
            f"{BAD}:over 10 MiB",
            "test_a_split_needs_a_key_inside_the_shard:lowest",
            "test_a_split_needs_a_key_inside_the_shard:lowest + 1",
        ),
        "tells 2**63 - 1 as the last sequence number of every closed shard": (
            "test_a_closed_shards_last_number_comes_after_its_records_and_before_its_childrens",
        ),
        "fails one record inside a 200 where the service refuses the request": (
            f"{BAD}:data over 1 MiB",
            "test_a_refused_request_leaves_nothing_behind",
        ),
        "leaves out the last consumer of a list in pages": ("test_consumers_are_listed",),
        "refuses to delete a stream that has consumers, and deletes it": (ENFORCED,),
        "answers HTTP 500": (
            f"{BAD}:hash key no number",
            f"{BAD}:data not base64",
            "test_a_made_up_iterator_is_refused",
        ),
        "refuses it under another name": (
            f"{BAD}:records missing",
            f"{BAD}:records null",
            f"{BAD}:empty key",
            f"{BAD}:key of 257",
            f"{BAD}:key missing",
            f"{BAD}:data missing",
            f"{BAD}:hash key negative",
            f"{BAD}:hash key leading zero",
            "test_put_record_is_held_to_the_same_limits",
            "test_a_bad_stream_name_is_refused:wrong characters",
            "test_a_bad_stream_name_is_refused:empty",
            "test_a_bad_stream_name_is_refused:too long",
            "test_no_stream_is_refused",
            "test_an_unknown_operation_is_refused",
            "test_a_bad_create_is_refused:no name",
            "test_a_bad_create_is_refused:bad name",
            "test_a_bad_create_is_refused:no shards",
            "test_what_is_out_of_bounds_is_refused:kind",
            "test_what_is_out_of_bounds_is_refused:limit",
        ),
        "asks for an Authorization header": ("test_a_request_without_authorization_is_answered",),
    },
}

# Cases in which the sandbox stands alone, and why it is right.
ALONE = {
    f"{BAD}:hash key no number": "the service model's pattern is ^(0|([1-9]\\d{0,38}))$, and AWS "
    "answers what breaks a pattern with ValidationException",
    f"{BAD}:hash key negative": "as above",
    f"{BAD}:hash key leading zero": "as above",
    ENFORCED: "the service model says of DeleteStream that it fails with ResourceInUseException "
    "where the stream has registered consumers, unless EnforceConsumerDeletion is true",
}


def _by_case() -> Iterator[tuple[str, str, str]]:
    for service, differences in _BY_SERVICE.items():
        for reason, cases in differences.items():
            for case in cases:
                yield case, service, reason


DIFFERENCES: dict[str, dict[str, str]] = {}
for _case, _service, _reason in _by_case():
    assert _service not in DIFFERENCES.setdefault(_case, {}), f"{_case} is listed twice"
    DIFFERENCES[_case][_service] = _reason


# --- recorded requests (test_wire_cases.py): where the sandbox and the daemon answer with another
# status or type than kinesalite, each with its reason; the same in JSON and in CBOR.

WIRE: dict[str, str] = {
    "pr.arn_unknown": "kinesalite predates StreamARN: it finds no stream named at all",
    "pr.ehk_pattern": "kinesalite does not anchor the model's pattern; see ALONE",
    "pr.ehk_negative": "kinesalite does not anchor the model's pattern; see ALONE",
    "pr.req_5MiB_plus": "the limit is 10 MiB since 2025-10; kinesalite has one of its own, 413",
    "pr.req_10MiB_plus": "AWS answers InvalidArgumentException; kinesalite has its own limit, 413",
    "pr.b64_lastchar": "bits that no byte uses are accepted: to find them takes a pass over every "
    "body (`wire/put.py`)",
    "http.bad_utf8": "kinesalite replaces the bytes and finds other faults; what is not UTF-8 is "
    "no JSON",
    "http.no_auth": "no signature is asked for: a user with curl gets an answer",
    "http.auth_garbage": "no signature is asked for",
    "http.no_date": "no signature is asked for",
}

# Where the status and the type are the same, and the text is another.
WIRE_TEXTS: dict[str, str] = {
    "pr.501": "the service repeats 501 records as Java objects; that helps nobody",
    "pr.data_1MiB_plus1": "AWS does not repeat the value any more (2025-12)",
    "p.data_1MiB_plus1": "AWS does not repeat the value any more (2025-12)",
}
