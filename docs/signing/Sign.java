// Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs Java 17 or later, and no library.
//
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... java Sign.java GET http://127.0.0.1:8080/v1/clients
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... java Sign.java POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'

import static java.nio.charset.StandardCharsets.UTF_8;

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.Instant;
import java.util.HexFormat;
import java.util.Map;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Sign {
    /** The headers that sign a request. `target` is path and ?query exactly as sent; `body` the bytes exactly as sent. */
    static Map<String, String> sign(String keyId, String secret, String method, String target, byte[] body)
            throws GeneralSecurityException {
        String timestamp = Long.toString(Instant.now().getEpochSecond());
        byte[] random = new byte[16];
        new SecureRandom().nextBytes(random);
        HexFormat hex = HexFormat.of();
        String nonce = hex.formatHex(random);
        String bodySha256 = hex.formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        String text = String.join("\n", method, target, timestamp, nonce, bodySha256);
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(secret.getBytes(UTF_8), "HmacSHA256"));
        String signature = hex.formatHex(mac.doFinal(text.getBytes(UTF_8)));
        return Map.of("X-API-Key", keyId + ":" + signature, "X-Timestamp", timestamp, "X-Nonce", nonce);
    }

    public static void main(String[] args) throws Exception {
        String method = args[0];
        URI uri = URI.create(args[1]);
        byte[] body = args.length > 2 ? args[2].getBytes(UTF_8) : new byte[0];
        String path = uri.getRawPath().isEmpty() ? "/" : uri.getRawPath(); // Raw: with its escapes, as it is sent
        String target = uri.getRawQuery() == null ? path : path + "?" + uri.getRawQuery();
        HttpRequest.Builder request = HttpRequest.newBuilder(uri)
                .version(HttpClient.Version.HTTP_1_1)
                .method(method, body.length > 0 ? BodyPublishers.ofByteArray(body) : BodyPublishers.noBody());
        sign(System.getenv("OSTIARY_KEY_ID"), System.getenv("OSTIARY_SECRET"), method, target, body)
                .forEach(request::header);
        if (body.length > 0) {
            request.header("Content-Type", "application/json");
        }
        var answer = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
        System.exit(answer.statusCode() < 300 ? 0 : 1);
    }
}
