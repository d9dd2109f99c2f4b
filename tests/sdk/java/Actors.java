// Actors written with the official Java SDK, behind an HTTP server of this process, called through proxies, which speak
// gRPC. Argument: the port to listen on; the environment says where the sidecar is. Prints one line for each thing that
// held; the first that did not ends the process with 1.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.dapr.actors.ActorId;
import io.dapr.actors.ActorMethod;
import io.dapr.actors.ActorType;
import io.dapr.actors.client.ActorClient;
import io.dapr.actors.client.ActorProxyBuilder;
import io.dapr.actors.runtime.AbstractActor;
import io.dapr.actors.runtime.ActorRuntime;
import io.dapr.actors.runtime.ActorRuntimeContext;
import io.dapr.actors.runtime.Remindable;
import io.dapr.utils.TypeRef;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executors;
import reactor.core.publisher.Mono;

public final class Actors {
  static final Queue<String> FIRED = new ConcurrentLinkedQueue<>();

  /** What can be asked of an account. */
  @ActorType(name = "Account")
  public interface Account {
    @ActorMethod(returns = Integer.class)
    Mono<Integer> add(int amount);

    void clock(String kind);

    void silence();

    void rung(String data);

    void fail();
  }

  /** Keeps a total in its state. */
  @ActorType(name = "Account")
  public static final class AccountActor extends AbstractActor implements Account, Remindable<String> {
    public AccountActor(ActorRuntimeContext<AccountActor> context, ActorId id) {
      super(context, id);
    }

    @Override
    public Mono<Integer> add(int amount) {
      return getActorStateManager()
          .contains("total")
          .flatMap(there -> there ? getActorStateManager().get("total", int.class) : Mono.just(0))
          .flatMap(before -> getActorStateManager().set("total", before + amount).thenReturn(before + amount));
    }

    @Override
    public void clock(String kind) {
      Duration soon = Duration.ofMillis(10);
      Duration often = Duration.ofSeconds(1);
      if (kind.equals("timer")) {
        registerActorTimer("t", "rung", "tick", soon, often).block();
      } else {
        registerReminder("r", "remember", soon, often).block();
      }
    }

    @Override
    public void silence() {
      unregisterTimer("t").block();
      unregisterReminder("r").block();
    }

    @Override
    public void rung(String data) {
      FIRED.add("timer " + data);
    }

    @Override
    public TypeRef<String> getStateType() {
      return TypeRef.STRING;
    }

    @Override
    public Mono<Void> receiveReminder(String name, String state, Duration due, Duration period) {
      FIRED.add("reminder " + name + " " + state);
      return Mono.empty();
    }

    @Override
    public void fail() {
      throw new IllegalStateException("no money");
    }
  }

  // The routes of an application, as Spring's controller of the SDK has them.
  static void serve(HttpExchange exchange) throws IOException {
    byte[] body = exchange.getRequestBody().readAllBytes();
    String[] parts = exchange.getRequestURI().getPath().split("/");
    ActorRuntime runtime = ActorRuntime.getInstance();
    int status = 200;
    byte[] answer = new byte[0];
    try {
      if (parts.length == 3 && parts[2].equals("config")) {
        answer = runtime.serializeConfig();
      } else if (parts.length > 1 && !parts[1].equals("actors")) {
        status = 404;
      } else if (exchange.getRequestMethod().equals("DELETE")) {
        runtime.deactivate(parts[2], parts[3]).block();
      } else if (parts.length == 6) {
        byte[] found = runtime.invoke(parts[2], parts[3], parts[5], body).block();
        answer = found == null ? answer : found;
      } else if (parts[5].equals("timer")) {
        runtime.invokeTimer(parts[2], parts[3], parts[6], body).block();
      } else {
        runtime.invokeReminder(parts[2], parts[3], parts[6], body).block();
      }
    } catch (RuntimeException error) {
      status = 500;
      answer = String.valueOf(error.getMessage()).getBytes(StandardCharsets.UTF_8);
    }
    exchange.sendResponseHeaders(status, answer.length == 0 ? -1 : answer.length);
    exchange.getResponseBody().write(answer);
    exchange.close();
  }

  static void until(String text, int times) throws InterruptedException {
    for (int tries = 0; FIRED.stream().filter(one -> one.equals(text)).count() < times; tries++) {
      expect(tries < 400, text + ": " + FIRED);
      Thread.sleep(50);
    }
  }

  static void expect(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  static void held(String name) {
    System.out.println("held: " + name);
  }

  public static void main(String[] arguments) throws Exception {
    ActorRuntime.getInstance().registerActor(AccountActor.class);
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext("/", Actors::serve);
    server.start();
    try (ActorClient client = new ActorClient()) {
      Account account = new ActorProxyBuilder<>(Account.class, client).build(new ActorId("one"));
      expect(account.add(3).block() == 3, "3");
      expect(account.add(4).block() == 7, "7");
      held("methods and state");
      account.clock("timer");
      until("timer tick", 2);
      held("timers");
      account.clock("reminder");
      until("reminder r remember", 2);
      account.silence();
      held("reminders");
      try {
        account.fail();
        throw new AssertionError("no error");
      } catch (RuntimeException error) {
        expect(String.valueOf(error).contains("error from actor service: (500)"), String.valueOf(error));
      }
      held("errors");
    }
    System.exit(0);
  }
}
