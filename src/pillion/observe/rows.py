"""Every metric of a sidecar as a row: its name, type, labels and meaning (spec `runtime.md` 6.1).

A block that comes later finds its rows here and only has to count. Rows are in groups; a histogram that goes with a
counter of the same labels names it, and both are counted in one step.
"""

from __future__ import annotations

from enum import Enum

from pillion.records import record

LATENCIES_MS = (
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800, 1000,
    2000, 5000, 10000, 20000, 50000, 100000,
)  # fmt: skip
SIZES_BYTES = tuple(1024 * size for size in (1, 2, 4, 16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20))  # noqa: E501  # fmt: skip
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1, 1.5, 2)


class Kind(Enum):
    """The types of the exposition format that are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@record
class Row:
    """One metric. `fixed` are the labels whose values are the sidecar's own; `latency`: in milliseconds, with bounds
    that the configuration may replace; `counters`: those that count the same events under the same labels.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    about: str
    bounds: tuple[float, ...] = ()
    latency: bool = False
    counters: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ("app_id", "namespace")
    prefix: str = "dapr_"

    @property
    def exposed(self) -> str:
        """The name as it is scraped."""
        return self.prefix + self.name


def _row(kind: Kind, names: str, labels: str, about: str, **more: object) -> list[Row]:
    return [Row(name, kind, tuple(labels.split()), about, **more) for name in names.split()]  # type: ignore[arg-type]


def _counters(names: str, labels: str, about: str, **more: object) -> list[Row]:
    return _row(Kind.COUNTER, names, labels, about, **more)


def _gauges(names: str, labels: str, about: str) -> list[Row]:
    return _row(Kind.GAUGE, names, labels, about)


def _latency(name: str, labels: str, about: str, counted: str = "") -> list[Row]:
    """A histogram of milliseconds and the counters that share its labels."""
    counters = tuple(counted.split())
    rows = _counters(counted, labels, f"Number: {about}.")
    return [
        *rows,
        *_row(Kind.HISTOGRAM, name, labels, f"Milliseconds: {about}.", bounds=LATENCIES_MS, latency=True,
              counters=counters),
    ]  # fmt: skip


def _sizes(names: str, labels: str, about: str) -> list[Row]:
    return _row(Kind.HISTOGRAM, names, labels, about, bounds=SIZES_BYTES)


def _pair(stem: str, labels: str, about: str) -> list[Row]:
    return _latency(f"{stem}_latencies", labels, about, f"{stem}_count")


_COMPONENT = "app_id component namespace"
_WORKFLOW = "app_id namespace"
_POLICY = "app_id name policy namespace flow_direction target status"
_ALL = (
    # Components, certificates
    *_counters("runtime_component_loaded", "app_id", "Components that were loaded."),
    *_counters("runtime_component_init_total", "app_id component", "Components that were opened, by type."),
    *_counters("runtime_component_init_fail_total", "app_id component reason componentName", "Components that failed."),
    *_counters("runtime_mtls_init_total", "app_id", "Times that the sidecar got its certificate."),
    *_counters("runtime_mtls_workload_cert_rotated_total", "app_id", "Times that the certificate was renewed."),
    *_counters("runtime_mtls_init_fail_total", "app_id reason", "Times that no certificate could be had."),
    *_counters("runtime_mtls_workload_cert_rotated_fail_total", "app_id reason", "Renewals that failed."),
    # Actors
    *_counters("runtime_actor_status_report_total", "app_id actor_type operation", "Reports to the placement service."),
    *_counters("runtime_actor_table_operation_recv_total", "app_id actor_type operation", "Orders of placement."),
    *_counters("runtime_actor_status_report_fail_total", "app_id actor_type operation reason", "Reports that failed."),
    *_counters("runtime_actor_rebalanced_total", "app_id actor_type", "Actors that moved to another host."),
    *_counters("runtime_actor_deactivated_total", "app_id actor_type", "Actors that were put to rest."),
    *_counters("runtime_actor_deactivated_failed_total", "app_id actor_type", "Actors that could not be put to rest."),
    *_gauges("runtime_actor_pending_actor_calls", "app_id actor_type", "Calls that wait for their turn."),
    *_gauges("runtime_actor_timers", "app_id actor_type", "Timers that are set."),
    # Nobody sets the next one, here or in the reference: the scheduler keeps the reminders, and no sidecar counts them.
    *_gauges("runtime_actor_reminders", "app_id actor_type", "Reminders that are set."),
    *_counters("runtime_actor_reminders_fired_total", "app_id actor_type success", "Reminders that fired."),
    *_counters("runtime_actor_timers_fired_total", "app_id actor_type success", "Timers that fired."),
    # Access control; here app_id and namespace are the caller's.
    *_counters("runtime_acl_app_policy_action_allowed_total", "app_id trustDomain namespace",
               "Calls that a rule let through.", fixed=()),
    *_counters("runtime_acl_app_policy_action_blocked_total", "app_id trustDomain namespace",
               "Calls that the rules for their caller refused.", fixed=()),
    *_counters("runtime_acl_global_policy_action_allowed_total", "app_id trustDomain namespace",
               "Calls that the default action let through.", fixed=()),
    *_counters("runtime_acl_global_policy_action_blocked_total", "app_id trustDomain namespace",
               "Calls that the default action refused.", fixed=()),
    *_counters("runtime_workflow_acl_action_allowed_total", "app_id src_app_id operation type",
               "Workflow calls let through."),
    *_counters("runtime_workflow_acl_action_denied_total", "app_id src_app_id operation type",
               "Workflow calls denied."),
    # Service invocation
    *_counters("runtime_service_invocation_req_sent_total", "app_id dst_app_id type",
               "Requests to other sidecars."),
    *_counters("runtime_service_invocation_req_recv_total", "app_id src_app_id", "Requests of other sidecars."),
    *_counters("runtime_service_invocation_res_sent_total", "app_id dst_app_id status", "Answers to other sidecars."),
    *_counters("runtime_service_invocation_res_recv_total", "app_id src_app_id status type",
               "Answers of other sidecars."),
    *_latency("runtime_service_invocation_res_recv_latency_ms", "app_id src_app_id status",
              "from a request to another sidecar to its answer"),
    # Building blocks
    *_pair("component_pubsub_ingress", "app_id component namespace process_status topic status", "messages delivered"),
    *_pair("component_pubsub_ingress_bulk", "app_id component namespace process_status topic", "bulks delivered"),
    *_counters("component_pubsub_ingress_bulk_event_count", "app_id component namespace process_status topic",
               "Messages delivered in bulks."),
    *_pair("component_pubsub_egress", "app_id component namespace success topic", "messages published"),
    *_pair("component_pubsub_egress_bulk", "app_id component namespace success topic", "bulks published"),
    *_pair("component_input_binding", f"{_COMPONENT} success", "events of input bindings"),
    *_pair("component_conversation", f"{_COMPONENT} success", "conversations with a model"),
    *_pair("component_output_binding", f"{_COMPONENT} operation success", "calls of output bindings"),
    *_pair("component_state", f"{_COMPONENT} operation success", "operations of state stores"),
    *_pair("component_configuration", f"{_COMPONENT} operation success", "operations of configuration stores"),
    *_pair("component_secret", f"{_COMPONENT} operation success", "operations of secret stores"),
    *_pair("component_crypto", f"{_COMPONENT} operation success", "operations of cryptography components"),
    *_counters("component_job_success_count", "app_id namespace operation", "Jobs that the application carried out."),
    *_counters("component_job_failure_count", "app_id namespace operation", "Jobs that the application failed."),
    *_latency("component_job_latencies", "app_id namespace operation success", "jobs with the application"),
    # Workflows
    *_latency("runtime_workflow_operation_latency", f"{_WORKFLOW} operation status", "requests about workflows",
              "runtime_workflow_operation_count"),
    *_latency("runtime_workflow_execution_latency", f"{_WORKFLOW} workflow_name status", "workflows executed",
              "runtime_workflow_execution_count"),
    *_latency("runtime_workflow_scheduling_latency", f"{_WORKFLOW} workflow_name", "from due to started"),
    *_latency("runtime_workflow_activity_operation_latency", f"{_WORKFLOW} activity_name status", "activities begun",
              "runtime_workflow_activity_operation_count"),
    *_latency("runtime_workflow_activity_execution_latency", f"{_WORKFLOW} activity_name status", "activities executed",
              "runtime_workflow_activity_execution_count"),
    *_row(Kind.HISTOGRAM, "runtime_workflow_payload_size_ratio", f"{_WORKFLOW} workflow_name",
          "Size of a workflow's payload, as a share of what is allowed.", bounds=RATIOS),
    *_row(Kind.HISTOGRAM, "runtime_workflow_activity_payload_size_ratio", f"{_WORKFLOW} workflow_name activity_name",
          "Size of an activity's payload, as a share of what is allowed.", bounds=RATIOS),
    *_counters("runtime_workflow_attestation_generated_count", f"{_WORKFLOW} attestation_kind status",
               "Attestations of workflow history that were made."),
    *_latency("runtime_workflow_attestation_verify_latency", f"{_WORKFLOW} attestation_kind attestation_result",
              "attestations of workflow history verified", "runtime_workflow_attestation_verified_count"),
    *_counters("runtime_workflow_attestation_cert_cache_count", f"{_WORKFLOW} cert_cache_outcome",
               "Look-ups of certificates for attestations."),
    # Resiliency; name and namespace are those of the last Resiliency loaded.
    *_counters("resiliency_loaded", "app_id name namespace", "Resiliency resources loaded.", fixed=("app_id",)),
    *_counters("resiliency_count", _POLICY, "Calls under a policy.", fixed=("app_id",)),
    *_counters("resiliency_activations_total", _POLICY, "Times that a policy acted.", fixed=("app_id",)),
    *_row(Kind.GAUGE, "resiliency_cb_state", _POLICY, "State of circuit breakers: 1 for the current one.",
          fixed=("app_id",)),
    *_counters("error_code_total", "app_id error_code category", "Errors answered, by their code."),
    # HTTP
    *_sizes("http_server_request_bytes", "app_id", "Bytes of request bodies, as announced."),
    *_sizes("http_server_response_bytes", "app_id", "Bytes of response bodies."),
    *_sizes("http_client_received_bytes", "app_id", "Bytes of the application's response bodies."),
    *_counters("http_server_response_count", "app_id method path status", "Responses of the HTTP API."),
    *_latency("http_server_latency", "app_id method path status", "requests of the HTTP API",
              "http_server_request_count"),
    *_sizes("http_client_sent_bytes", "app_id method path status", "Bytes of request bodies sent to the application."),
    *_latency("http_client_roundtrip_latency", "app_id method path status", "HTTP requests to the application",
              "http_client_completed_count"),
    *_latency("http_healthprobes_roundtrip_latency", "app_id status", "HTTP health probes of the application",
              "http_healthprobes_completed_count"),
    # gRPC
    *_sizes("grpc_io_server_received_bytes_per_rpc", "app_id grpc_server_method", "Bytes of request messages."),
    *_sizes("grpc_io_server_sent_bytes_per_rpc", "app_id grpc_server_method", "Bytes of response messages."),
    *_latency("grpc_io_server_server_latency", "app_id grpc_server_method grpc_server_status", "calls of the gRPC API",
              "grpc_io_server_completed_rpcs"),
    *_sizes("grpc_io_client_sent_bytes_per_rpc", "app_id grpc_client_method", "Bytes of requests sent."),
    *_sizes("grpc_io_client_received_bytes_per_rpc", "app_id grpc_client_method", "Bytes of responses received."),
    *_latency("grpc_io_client_roundtrip_latency", "app_id grpc_client_method grpc_client_status", "gRPC calls made",
              "grpc_io_client_completed_rpcs"),
    *_latency("grpc_io_healthprobes_roundtrip_latency", "app_id grpc_client_status", "gRPC health probes",
              "grpc_io_healthprobes_completed_count"),
    # Placement
    *_row(Kind.GAUGE, "placement_runtimes_total", "host_namespace", "Sidecars that are connected.", fixed=()),
    *_row(Kind.GAUGE, "placement_actor_runtimes_total", "host_namespace", "Of these, those that host actors.",
          fixed=()),
    *_row(Kind.GAUGE, "placement_leader_status placement_raft_leader_status", "", "1: this process leads.", fixed=()),
    # The scheduler
    *_row(Kind.GAUGE, "scheduler_sidecars_connected", "", "Streams of sidecars that take triggers.", fixed=()),
    *_counters("scheduler_jobs_created_total", "type", "Jobs that were registered.", fixed=()),
    *_counters("scheduler_jobs_created_failed_total", "type", "Jobs that were refused.", fixed=()),
    *_counters("scheduler_jobs_deleted_total", "type", "Jobs that were deleted.", fixed=()),
    *_counters("scheduler_jobs_bulk_deleted_total", "", "Deletions of many jobs at once.", fixed=()),
    *_counters("scheduler_jobs_triggered_total", "type", "Ticks that a sidecar carried out.", fixed=()),
    *_counters("scheduler_jobs_failed_total", "type", "Ticks that a sidecar failed.", fixed=()),
    *_counters("scheduler_jobs_undelivered_total", "type", "Ticks that no sidecar took.", fixed=()),
    *_row(Kind.HISTOGRAM, "scheduler_trigger_latency", "type", "Milliseconds: from a trigger to its answer.",
          bounds=(0, 100, 500, 1000, 5000, 10000), fixed=()),
    *_row(Kind.GAUGE, "scheduler_concurrency_inflight scheduler_concurrency_pending", "concurrency_key",
          "Triggers of a concurrency gate, inside and waiting.", fixed=()),
    *_counters("scheduler_concurrency_throttled_total", "concurrency_key", "Triggers that waited at a gate.", fixed=()),
    *_counters("scheduler_sidecar_errors_total", "reason", "Streams of sidecars that ended by an error.", fixed=()),
    # Ours
    *_counters("trace_spans_exported_total", "app_id exporter", "Spans that a receiver took.", prefix="pillion_"),
    *_counters("trace_spans_dropped_total", "app_id exporter", "Spans given up.",
               prefix="pillion_"),
)  # fmt: skip
ROWS = {row.name: row for row in _ALL}
