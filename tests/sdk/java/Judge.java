// The official Java SDK over every block it has, as its users use it; the environment says where the sidecar is.
// Prints one line for each thing that held; a failed expectation ends the process with an error.

import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.DaprPreviewClient;
import io.dapr.client.domain.ConversationInputAlpha2;
import io.dapr.client.domain.ConversationMessageContent;
import io.dapr.client.domain.ConversationRequestAlpha2;
import io.dapr.client.domain.DecryptRequestAlpha1;
import io.dapr.client.domain.EncryptRequestAlpha1;
import io.dapr.client.domain.HttpExtension;
import io.dapr.client.domain.State;
import io.dapr.client.domain.StateOptions;
import io.dapr.client.domain.SubscribeConfigurationResponse;
import io.dapr.client.domain.TransactionalStateOperation;
import io.dapr.client.domain.TransactionalStateOperation.OperationType;
import io.dapr.client.domain.UnlockResponseStatus;
import io.dapr.client.domain.UserMessage;
import io.dapr.exceptions.DaprErrorDetails.ErrorDetailType;
import io.dapr.exceptions.DaprException;
import io.dapr.utils.TypeRef;
import java.io.ByteArrayOutputStream;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import reactor.core.publisher.Flux;

public final class Judge {
  private static final int WAIT_MS = 20_000;
  private static final TypeRef<Map<String, Object>> JSON = new TypeRef<>() {};

  private final DaprClient client;
  private final DaprPreviewClient preview;

  private Judge(DaprClient client, DaprPreviewClient preview) {
    this.client = client;
    this.preview = preview;
  }

  public static void main(String[] arguments) throws Exception {
    try (DaprClient client = new DaprClientBuilder().build();
        DaprPreviewClient preview = new DaprClientBuilder().buildPreviewClient()) {
      Judge judge = new Judge(client, preview);
      held("health", () -> client.waitForSidecar(WAIT_MS).block());
      held("state", judge::state);
      held("etags", judge::etags);
      held("transaction", judge::transaction);
      held("publish", judge::publish);
      held("subscribe", judge::subscribe);
      held("secrets", judge::secrets);
      held("invoke", judge::invoke);
      held("configuration", judge::configuration);
      held("lock", judge::lock);
      held("bindings", judge::bindings);
      held("crypto", judge::crypto);
      held("conversation", judge::conversation);
      held("metadata", judge::metadata);
      held("errors", judge::errors);
    }
    System.exit(0); // the SDK's pools may outlive it
  }

  private void state() {
    client.saveState("store", "a", Map.of("n", 1)).block();
    State<Map<String, Object>> found = client.getState("store", "a", JSON).block();
    same(Map.of("n", 1), found.getValue());
    client.saveBulkState("store", List.of(new State<>("b", "text", ""), new State<>("c", 3, ""))).block();
    Set<String> keys = new HashSet<>();
    for (State<Object> item : client.getBulkState("store", List.of("b", "c"), Object.class).block()) {
      same(null, item.getError());
      keys.add(item.getKey() + "=" + item.getValue());
    }
    same(Set.of("b=text", "c=3"), keys);
    client.deleteState("store", "a").block();
    same(null, client.getState("store", "a", JSON).block().getValue());
  }

  private void etags() {
    StateOptions first = new StateOptions(StateOptions.Consistency.STRONG, StateOptions.Concurrency.FIRST_WRITE);
    client.saveState("store", "guarded", "one").block();
    String etag = client.getState("store", "guarded", String.class).block().getEtag();
    client.saveState("store", "guarded", etag, "two", first).block();
    DaprException refused = refused(() -> client.saveState("store", "guarded", etag, "three", first).block());
    same("ABORTED", refused.getErrorCode());
    same("ABORTED", refused(() -> client.deleteState("store", "guarded", etag, first).block()).getErrorCode());
    same("two", client.getState("store", "guarded", String.class).block().getValue());
  }

  private void transaction() {
    client.saveState("store", "old", "x").block();
    List<TransactionalStateOperation<?>> operations = List.of(
        new TransactionalStateOperation<>(OperationType.UPSERT, new State<>("new", "y", "")),
        new TransactionalStateOperation<>(OperationType.DELETE, new State<String>("old")));
    client.executeStateTransaction("store", operations).block();
    same("y", client.getState("store", "new", String.class).block().getValue());
    same(null, client.getState("store", "old", String.class).block().getValue());
  }

  private void publish() {
    client.publishEvent("pubsub", "orders", Map.of("id", 7)).block();
    client.publishEvent("pubsub", "orders", "raw", Map.of("rawPayload", "true", "ttlInSeconds", "60")).block();
    same(0, client.publishEvents("pubsub", "orders", "application/json", "1", "2").block().getFailedEntries().size());
  }

  private void subscribe() throws Exception {
    BlockingQueue<Map<String, Object>> heard = new LinkedBlockingQueue<>();
    var subscription = preview.subscribeToTopic("pubsub", "stream", JSON).subscribe(heard::add);
    try {
      // The SDK does not say when its stream is in place; the sidecar does.
      long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(WAIT_MS);
      while (client.getMetadata().block().getSubscriptions().stream().noneMatch(s -> s.getTopic().equals("stream"))) {
        expect(System.nanoTime() < deadline, "no subscription");
        Thread.sleep(20);
      }
      client.publishEvent("pubsub", "stream", Map.of("id", 8)).block();
      same(Map.of("id", 8), heard.poll(WAIT_MS, TimeUnit.MILLISECONDS));
    } finally {
      subscription.dispose();
    }
  }

  private void secrets() {
    same(Map.of("password", "s3cret"), client.getSecret("vault", "password").block());
    same(Map.of("db:user", "ada"), client.getBulkSecret("vault").block().get("db:user"));
  }

  private void invoke() {
    Map<String, Object> answer =
        client.invokeMethod("shop", "orders/7", Map.of("hello", "world"), HttpExtension.POST, JSON).block();
    same("/orders/7", answer.get("path"));
    same(Map.of("hello", "world"), answer.get("body"));
    same("GET", client.invokeMethod("shop", "orders", null, HttpExtension.GET, JSON).block().get("method"));
  }

  private void configuration() throws Exception {
    configure("blue", "1");
    same("blue", client.getConfiguration("settings", "colour").block().getValue());
    BlockingQueue<SubscribeConfigurationResponse> heard = new LinkedBlockingQueue<>();
    var subscription = client.subscribeConfiguration("settings", "colour").subscribe(heard::add);
    try {
      String id = heard.poll(WAIT_MS, TimeUnit.MILLISECONDS).getSubscriptionId();
      configure("green", "2");
      SubscribeConfigurationResponse change = heard.poll(WAIT_MS, TimeUnit.MILLISECONDS);
      same("green", change.getItems().get("colour").getValue());
      same("2", change.getItems().get("colour").getVersion());
      same(true, client.unsubscribeConfiguration(id, "settings").block().getIsUnsubscribed());
    } finally {
      subscription.dispose();
    }
  }

  private void configure(String value, String version) {
    Map<String, String> item = Map.of("key", "colour", "value", value, "version", version);
    client.invokeMethod("shop", "configure", item, HttpExtension.POST, JSON).block();
  }

  private void lock() {
    same(true, preview.tryLock("locks", "order 1", "me", 60).block());
    same(false, preview.tryLock("locks", "order 1", "you", 60).block());
    same(UnlockResponseStatus.LOCK_BELONG_TO_OTHERS, preview.unlock("locks", "order 1", "you").block());
    same(UnlockResponseStatus.SUCCESS, preview.unlock("locks", "order 1", "me").block());
    same(UnlockResponseStatus.LOCK_UNEXIST, preview.unlock("locks", "order 1", "me").block());
  }

  private void bindings() {
    Map<String, String> name = Map.of("fileName", "notes/java.txt");
    byte[] text = "written by Java".getBytes();
    client.invokeBinding("files", "create", text, name).block();
    same("written by Java", new String(client.invokeBinding("files", "get", new byte[0], name).block()));
    client.invokeBinding("files", "delete", new byte[0], name).block();
    refused(() -> client.invokeBinding("files", "get", new byte[0], name).block());
  }

  private void crypto() {
    byte[] plain = new byte[200_000];
    new Random(7).nextBytes(plain);
    byte[] document = joined(preview.encrypt(new EncryptRequestAlpha1("keys", Flux.just(plain), "mykey", "A256KW")));
    expect(new String(document, 0, 14).equals("dapr.io/enc/v1"), "not a document");
    byte[] opened = joined(preview.decrypt(new DecryptRequestAlpha1("keys", Flux.just(document))));
    expect(Arrays.equals(plain, opened), "what was opened is not what was sealed");
  }

  private static byte[] joined(Flux<byte[]> parts) {
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    parts.toIterable().forEach(all::writeBytes);
    return all.toByteArray();
  }

  private void conversation() {
    UserMessage hello = new UserMessage(List.of(new ConversationMessageContent("hello")));
    var request = new ConversationRequestAlpha2("echo", List.of(new ConversationInputAlpha2(List.of(hello))));
    var choice = preview.converseAlpha2(request).block().getOutputs().get(0).getChoices().get(0);
    same("hello", choice.getMessage().getContent());
    same("stop", choice.getFinishReason());
  }

  private void metadata() {
    var found = client.getMetadata().block();
    same("shop", found.getId());
    expect(found.getComponents().stream().anyMatch(c -> c.getType().equals("state.sqlite")), "no state.sqlite");
  }

  private void errors() {
    DaprException refused = refused(() -> client.getState("nowhere", "k", String.class).block());
    same("INVALID_ARGUMENT", refused.getErrorCode());
    same("DAPR_STATE_NOT_FOUND",
        refused.getErrorDetails().get(ErrorDetailType.ERROR_INFO, "reason", TypeRef.STRING));
  }

  private static DaprException refused(Work work) {
    try {
      work.run();
    } catch (DaprException expected) {
      return expected;
    } catch (Exception other) {
      throw new AssertionError("not the SDK's own error", other);
    }
    throw new AssertionError("not refused");
  }

  private static void same(Object wanted, Object found) {
    expect(Objects.equals(wanted, found), "wanted " + wanted + ", found " + found);
  }

  private static void expect(boolean holds, String otherwise) {
    if (!holds) {
      throw new AssertionError(otherwise);
    }
  }

  private static void held(String name, Work work) throws Exception {
    work.run();
    System.out.println("held: " + name);
  }

  private interface Work {
    void run() throws Exception;
  }
}
