;; A guest of the http-wasm handler ABI for tests. What it does is told by the letter after the first slash of the path.
(module
  (import "http_handler" "enable_features" (func $enable_features (param i32) (result i32)))
  (import "http_handler" "get_config" (func $get_config (param i32 i32) (result i32)))
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "get_header_values" (func $get_header_values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "get_header_names" (func $get_header_names (param i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))
  (import "http_handler" "read_body" (func $read_body (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (import "http_handler" "get_status_code" (func $get_status_code (result i32)))
  (import "http_handler" "set_status_code" (func $set_status_code (param i32)))
  (import "http_handler" "log" (func $log (param i32 i32 i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $count (mut i32) (i32.const 0))
  (data (i32.const 0) "x-guest")
  (data (i32.const 16) "x-count")
  (data (i32.const 32) "refused")
  (data (i32.const 48) "x-in")
  (data (i32.const 64) "/rewritten")

  (func $letter (result i32)
    (drop (call $get_uri (i32.const 1024) (i32.const 1024)))
    (i32.load8_u (i32.const 1025)))

  (func (export "_initialize")
    (drop (call $enable_features (i32.const 7))))

  (func (export "handle_request") (result i64)
    (local $letter i32) (local $size i32) (local $got i64)
    (local.set $letter (call $letter))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    ;; d: deny
    (if (i32.eq (local.get $letter) (i32.const 100)) (then
      (call $set_status_code (i32.const 403))
      (call $write_body (i32.const 1) (i32.const 32) (i32.const 3))
      (call $write_body (i32.const 1) (i32.const 35) (i32.const 4))
      (return (i64.const 0))))
    ;; t: trap, s: spin, m: memory that is not there, h: a header that is none
    (if (i32.eq (local.get $letter) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $letter) (i32.const 115)) (then (loop $again (br $again))))
    (if (i32.eq (local.get $letter) (i32.const 109)) (then (call $set_uri (i32.const 131000) (i32.const 1000))))
    (if (i32.eq (local.get $letter) (i32.const 104)) (then
      (call $set_header_value (i32.const 0) (i32.const 2000) (i32.const 3) (i32.const 0) (i32.const 3))))
    ;; u: another path
    (if (i32.eq (local.get $letter) (i32.const 117)) (then (call $set_uri (i32.const 64) (i32.const 10))))
    ;; b: the body in pieces of three bytes, joined by what x-in says
    (if (i32.eq (local.get $letter) (i32.const 98)) (then
      (drop (call $get_header_values (i32.const 0) (i32.const 48) (i32.const 4) (i32.const 3000) (i32.const 100)))
      (loop $more
        (local.set $got (call $read_body (i32.const 0) (i32.const 4096) (i32.const 3)))
        (call $write_body (i32.const 0) (i32.const 4096) (i32.wrap_i64 (local.get $got)))
        (call $write_body (i32.const 0) (i32.const 3000) (i32.const 1))
        (br_if $more (i64.lt_u (local.get $got) (i64.const 4294967296))))))
    ;; n: refuse a buffer that is too small for the names, then log how long they are
    (if (i32.eq (local.get $letter) (i32.const 110)) (then
      (local.set $got (call $get_header_names (i32.const 0) (i32.const 4096) (i32.const 2)))
      (if (i32.load8_u (i32.const 4096)) (then unreachable))
      (drop (call $get_header_names (i32.const 0) (i32.const 4096) (i32.wrap_i64 (local.get $got))))
      (call $log (i32.const 2) (i32.const 4096) (i32.wrap_i64 (local.get $got)))))
    ;; r: eight random bytes
    (if (i32.eq (local.get $letter) (i32.const 114)) (then
      (drop (call $random_get (i32.const 4096) (i32.const 8)))
      (call $write_body (i32.const 1) (i32.const 4096) (i32.const 8))
      (return (i64.const 0))))
    (local.set $size (call $get_config (i32.const 512) (i32.const 100)))
    (call $set_header_value (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 512) (local.get $size))
    (i64.or (i64.shl (i64.extend_i32_u (global.get $count)) (i64.const 32)) (i64.const 1)))

  (func (export "handle_response") (param $context i32) (param $failed i32)
    (local $letter i32)
    (local.set $letter (call $letter))
    (if (i32.ne (local.get $context) (global.get $count)) (then unreachable))
    ;; l: change the request too late, x: trap late
    (if (i32.eq (local.get $letter) (i32.const 108)) (then (call $set_uri (i32.const 64) (i32.const 10))))
    (if (i32.eq (local.get $letter) (i32.const 120)) (then unreachable))
    ;; a: another answer
    (if (i32.eq (local.get $letter) (i32.const 97)) (then
      (call $set_status_code (i32.add (call $get_status_code) (i32.const 2)))
      (call $write_body (i32.const 1) (i32.const 4096) (i32.wrap_i64
        (call $read_body (i32.const 1) (i32.const 4096) (i32.const 2))))))
    (i32.store8 (i32.const 600) (i32.add (i32.const 48) (global.get $count)))
    (call $set_header_value (i32.const 1) (i32.const 16) (i32.const 7) (i32.const 600) (i32.const 1))))
