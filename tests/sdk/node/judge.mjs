// The official JavaScript SDK over every block it has, as its users use it. Argument: the protocol; the environment
// says where the sidecar is. Prints one line for each thing that held; a failed expectation ends the process with 1.
import assert from "node:assert/strict";
import {randomBytes} from "node:crypto";
import {setTimeout as pause} from "node:timers/promises";
import {CommunicationProtocolEnum, DaprClient, HttpMethod} from "@dapr/dapr";

const [protocol] = process.argv.slice(2);
const grpc = protocol === "grpc";
const client = new DaprClient({
  daprHost: "127.0.0.1",
  daprPort: grpc ? process.env.DAPR_GRPC_PORT : process.env.DAPR_HTTP_PORT,
  communicationProtocol: grpc ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP,
});

async function held(name, work) {
  await work();
  console.log(`held: ${name}`);
}

const text = (data) => (data instanceof Uint8Array ? Buffer.from(data).toString() : data);

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

await held("invoke", async () => {
  const answer = await client.invoker.invoke("shop", "orders/7", HttpMethod.POST, {hello: "world"});
  assert.deepEqual(answer, {path: "/orders/7", method: "POST", body: {hello: "world"}});
});

await held("lock", async () => {
  const [success, missing, others] = [0, 1, 2];
  assert.equal((await client.lock.lock("locks", "order 1", "me", 60)).success, true);
  assert.equal((await client.lock.lock("locks", "order 1", "you", 60)).success, false);
  assert.equal((await client.lock.unlock("locks", "order 1", "you")).status, others);
  assert.equal((await client.lock.unlock("locks", "order 1", "me")).status, success);
  assert.equal((await client.lock.unlock("locks", "order 1", "me")).status, missing);
});

await held("bindings", async () => {
  const name = {fileName: "notes/node.txt"};
  await client.binding.send("files", "create", "written by Node", name);
  const found = await client.binding.send("files", "get", undefined, name);
  assert.equal(text(grpc ? found.data : found), "written by Node");
  await client.binding.send("files", "delete", undefined, name);
  await assert.rejects(client.binding.send("files", "get", undefined, name));
});

// These the SDK has over gRPC alone.
if (grpc) {
  await held("configuration", async () => {
    // The application behind the sidecar changes the store by hand.
    const configure = (value, version) =>
      client.invoker.invoke("shop", "configure", HttpMethod.POST, {key: "colour", value, version});
    await configure("blue", "1");
    const {items} = await client.configuration.get("settings", ["colour"]);
    assert.deepEqual([items.colour.value, items.colour.version], ["blue", "1"]);
    let told;
    const change = new Promise((resolve) => (told = resolve));
    const stream = await client.configuration.subscribeWithKeys("settings", ["colour"], async (data) => told(data));
    // The SDK does not say when its stream is in place: change the value until it is heard.
    let heard;
    for (let version = 2; heard === undefined; version++) {
      assert.ok(version < 100);
      await configure("green", String(version));
      heard = await Promise.race([change, pause(200)]);
    }
    assert.equal(heard.items.colour.value, "green");
    await stream.stop();
  });

  await held("crypto", async () => {
    const plain = randomBytes(200_000);
    const options = {componentName: "keys", keyName: "mykey", keyWrapAlgorithm: "A256KW"};
    const document = await client.crypto.encrypt(plain, options);
    assert.ok(document.subarray(0, 14).equals(Buffer.from("dapr.io/enc/v1")));
    assert.ok((await client.crypto.decrypt(document, {componentName: "keys"})).equals(plain));
    document[document.length - 1] ^= 1;
    await assert.rejects(client.crypto.decrypt(document, {componentName: "keys"}));
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
