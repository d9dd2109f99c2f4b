// Actors written with the official JavaScript SDK, hosted by this process and called through proxies over HTTP and over
// gRPC. Argument: the port to listen on; the environment says where the sidecar is. Prints one line for each thing that
// held; a failed expectation ends the process with 1.
import assert from "node:assert/strict";
import {setTimeout as pause} from "node:timers/promises";
import {Temporal} from "@js-temporal/polyfill";
import {AbstractActor, ActorId, ActorProxyBuilder, CommunicationProtocolEnum, DaprClient, DaprServer} from "@dapr/dapr";

const [serverPort] = process.argv.slice(2);
const fired = [];

class Counter extends AbstractActor {
  async onActivate() {
    fired.push(`activated ${this.getActorId().getId()}`);
  }

  async add(amount) {
    const state = this.getStateManager();
    const [there, before] = await state.tryGetState("count");
    await state.setState("count", (there ? before : 0) + amount);
    await state.saveState();
    return state.getState("count");
  }

  async clock(kind) {
    const soon = Temporal.Duration.from({milliseconds: 10});
    const often = Temporal.Duration.from({seconds: 1});
    if (kind === "timer") await super.registerActorTimer("t", "rung", soon, often, undefined, "tick");
    if (kind === "reminder") await super.registerActorReminder("r", soon, often, undefined, "remember");
  }

  async silence() {
    await super.unregisterActorTimer("t");
    await super.unregisterActorReminder("r");
  }

  async rung(data) {
    fired.push(`timer ${data}`);
  }

  async receiveReminder(data) {
    fired.push(`reminder ${data}`);
  }

  async fail() {
    throw new Error("no money");
  }
}

const clientOptions = {daprHost: "127.0.0.1", daprPort: process.env.DAPR_HTTP_PORT};
const server = new DaprServer({serverHost: "127.0.0.1", serverPort, clientOptions});
await server.actor.init();
await server.actor.registerActor(Counter);
await server.start();
const overGrpc = new DaprClient({
  daprHost: "127.0.0.1",
  daprPort: process.env.DAPR_GRPC_PORT,
  communicationProtocol: CommunicationProtocolEnum.GRPC,
});

async function held(name, work) {
  await work();
  console.log(`held: ${name}`);
}

async function until(text, times) {
  for (let tries = 0; fired.filter((one) => one.startsWith(text)).length < times; tries++) {
    assert.ok(tries < 400, `${text}: ${fired}`);
    await pause(50);
  }
}

const proxies = {http: server.client, grpc: overGrpc};
for (const [protocol, client] of Object.entries(proxies)) {
  const counter = new ActorProxyBuilder(Counter, client).build(new ActorId(`one over ${protocol}`));
  await held(`methods and state, ${protocol}`, async () => {
    assert.equal(await counter.add(3), 3);
    assert.equal(await counter.add(4), 7);
    assert.ok(fired.includes(`activated one over ${protocol}`));
  });
  await held(`timers, ${protocol}`, async () => {
    await counter.clock("timer");
    await until("timer tick", 2);
  });
  await held(`reminders, ${protocol}`, async () => {
    await counter.clock("reminder");
    await until("reminder", 2);
    await counter.silence();
    fired.length = 0;
  });
  await held(`errors, ${protocol}`, async () => {
    await assert.rejects(counter.fail());
  });
}
process.exit(0);
