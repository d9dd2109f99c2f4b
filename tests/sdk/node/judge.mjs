// The official JavaScript SDK over every block it has, as its users use it. Arguments: protocol, port, server port.
// Prints one line for each thing that held; a failed expectation ends the process with 1.
import assert from "node:assert/strict";
import {CommunicationProtocolEnum, DaprClient, HttpMethod} from "@dapr/dapr";

const [protocol, port] = process.argv.slice(2);
const communicationProtocol = protocol === "grpc" ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP;
const client = new DaprClient({daprHost: "127.0.0.1", daprPort: port, communicationProtocol});

async function held(name, work) {
  await work();
  console.log(`held: ${name}`);
}

await held("state", async () => {
  await client.state.save("store", [{key: "a", value: {n: 1}}, {key: "b", value: "text"}]);
  assert.deepEqual(await client.state.get("store", "a"), {n: 1});
  const many = await client.state.getBulk("store", ["a", "b"]);
  assert.equal(many.length, 2);
  await client.state.transaction("store", [
    {operation: "upsert", request: {key: "c", value: "3"}},
    {operation: "delete", request: {key: "b"}},
  ]);
  assert.equal(String(await client.state.get("store", "c")), "3");
  assert.ok(["", undefined, null].includes(await client.state.get("store", "b")));
  await client.state.delete("store", "a");
});

await held("publish", async () => {
  const answer = await client.pubsub.publish("pubsub", "orders", {id: 7});
  assert.equal(answer.error, undefined);
  const bulk = await client.pubsub.publishBulk("pubsub", "orders", [{id: 8}, {id: 9}]);
  assert.equal(bulk.failedMessages.length, 0);
});

await held("secrets", async () => {
  assert.deepEqual(await client.secret.get("vault", "password"), {password: "s3cret"});
  assert.equal((await client.secret.getBulk("vault")).password.password, "s3cret");
});

if (protocol === "http") {
  await held("invoke", async () => {
    const answer = await client.invoker.invoke("shop", "orders/7", HttpMethod.POST, {hello: "world"});
    assert.deepEqual(answer, {path: "/orders/7", body: {hello: "world"}});
  });
}

await held("metadata", async () => {
  const found = await client.metadata.get();
  assert.equal(found.id, "shop");
  assert.ok(await client.metadata.set("colour", "blue"));
});

await held("health", async () => {
  assert.equal(await client.health.isHealthy(), true);
});

await client.stop();
