// Load of grpc-js on a sidecar: state over one channel, many calls at once, without one error. Argument: the seconds; the
// environment says where the sidecar is.
import assert from "node:assert/strict";
import {CommunicationProtocolEnum, DaprClient} from "@dapr/dapr";

const [seconds] = process.argv.slice(2);
const client = new DaprClient({
  daprHost: "127.0.0.1",
  daprPort: process.env.DAPR_GRPC_PORT,
  communicationProtocol: CommunicationProtocolEnum.GRPC,
});
const until = Date.now() + Number(seconds) * 1000;
let calls = 0;

async function caller(number) {
  const key = `load-${number}`;
  for (let turn = 0; Date.now() < until; turn += 1) {
    await client.state.save("store", [{key, value: {turn, filler: "x".repeat((turn % 50) * 100)}}]);
    const found = await client.state.get("store", key);
    assert.equal(found.turn, turn);
    calls += 2;
  }
}

await Promise.all(Array.from({length: 32}, (_, number) => caller(number)));
assert.ok(calls > 0);
console.log("held: load");
console.error(`${calls} calls in ${seconds} s`);
await client.stop();
process.exit(0);
