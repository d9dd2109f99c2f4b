// An application written with the official JavaScript SDK: what its users put behind a sidecar. Arguments: the protocol
// and the port to listen on; the environment says where the sidecar is. It publishes to itself, calls itself through
// the sidecar, and prints one line for each thing that held; a failed expectation ends the process with 1.
import assert from "node:assert/strict";
import {setTimeout as pause} from "node:timers/promises";
import {CommunicationProtocolEnum, DaprPubSubStatusEnum, DaprServer, HttpMethod} from "@dapr/dapr";

const [protocol, serverPort] = process.argv.slice(2);
const grpc = protocol === "grpc";
const communicationProtocol = grpc ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP;
const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort,
  communicationProtocol,
  clientOptions: {
    daprHost: "127.0.0.1",
    daprPort: grpc ? process.env.DAPR_GRPC_PORT : process.env.DAPR_HTTP_PORT,
    communicationProtocol,
  },
});

// Keeps what arrives; `next` waits for what has not arrived yet.
class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const taker = this.#waiting.shift();
    taker ? taker(item) : this.#items.push(item);
  }

  async next() {
    return this.#items.length ? this.#items.shift() : new Promise((resolve) => this.#waiting.push(resolve));
  }
}

async function held(name, work) {
  await work();
  console.log(`held: ${name}`);
}

const orders = new Inbox();
const stubborn = new Inbox();
const dead = new Inbox();
const bulk = new Inbox();
const ticks = new Inbox();
let attempts = 0;

await server.pubsub.subscribe("pubsub", "orders", async (data) => orders.put(data));
await server.pubsub.subscribe("pubsub", "stubborn", async (data) => {
  stubborn.put(data);
  return ++attempts < 3 ? DaprPubSubStatusEnum.RETRY : DaprPubSubStatusEnum.SUCCESS;
});
await server.pubsub.subscribeWithOptions("pubsub", "poison", {
  deadLetterTopic: "dead",
  callback: async () => DaprPubSubStatusEnum.DROP,
});
await server.pubsub.subscribe("pubsub", "dead", async (data) => dead.put(data));
if (!grpc) await server.pubsub.subscribeBulk("pubsub", "bulk", async (data) => bulk.put(data), {maxMessagesCount: 10});
await server.invoker.listen("hello", async ({body}) => ({heard: JSON.parse(body)}), {method: HttpMethod.POST});
await server.binding.receive("tick", async () => ticks.put("tick"));
await server.start();

await held("health", async () => {
  for (let tries = 0; !(await server.client.health.isHealthy()); tries++) {
    assert.ok(tries < 400);
    await pause(50);
  }
});

await held("invoke", async () => {
  const answer = await server.client.invoker.invoke("front", "hello", HttpMethod.POST, {who: "world"});
  assert.deepEqual(answer, {heard: {who: "world"}});
});

await held("subscribe", async () => {
  await server.client.pubsub.publish("pubsub", "orders", {id: 7});
  assert.deepEqual(await orders.next(), {id: 7});
  await server.client.pubsub.publish("pubsub", "orders", "plain text");
  assert.equal(await orders.next(), "plain text");
});

await held("retry", async () => {
  await server.client.pubsub.publish("pubsub", "stubborn", {id: 1});
  for (let n = 0; n < 3; n++) assert.deepEqual(await stubborn.next(), {id: 1});
});

await held("dead letter", async () => {
  await server.client.pubsub.publish("pubsub", "poison", {id: 2});
  assert.deepEqual(await dead.next(), {id: 2});
});

if (!grpc) {
  await held("bulk", async () => {
    await server.client.pubsub.publishBulk("pubsub", "bulk", [{n: 1}, {n: 2}, {n: 3}]);
    const got = [(await bulk.next()).n, (await bulk.next()).n, (await bulk.next()).n];
    assert.deepEqual(got.sort(), [1, 2, 3]);
  });
}

await held("input binding", async () => assert.equal(await ticks.next(), "tick"));

// Over gRPC the SDK's stop waits until the sidecar has hung up, which it does when the application is gone.
if (grpc) process.exit(0);
await server.stop();
await server.client.stop();
