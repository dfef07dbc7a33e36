import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.californium.scandium.dtls.cipher.CipherSuite;
import org.eclipse.leshan.client.object.Security;

/**
 * How the device secures its messages, from arguments {@code KEY=VALUE}: {@code psk=IDENTITY:SECRET}, or {@code mode=x509}
 * or {@code mode=rpk} with the DER files {@code own}, {@code key} and {@code server} (certificates, or public keys).
 * {@code suite} is the one to offer, {@code cid} the length of the Connection ID that the device gives (0: it takes one
 * and gives none; without it there is none). Nothing at all: plain UDP.
 */
final class Dtls {
    private final Map<String, String> arguments;

    Dtls(Map<String, String> arguments) {
        this.arguments = arguments;
    }

    Security security(String server, int shortId) throws IOException {
        if (arguments.containsKey("psk")) {
            String[] parts = arguments.get("psk").split(":", 2);
            return Security.psk(server, shortId, bytes(parts[0]), bytes(parts[1]));
        }
        switch (arguments.getOrDefault("mode", "none")) {
        case "x509":
            return Security.x509(server, shortId, file("own"), file("key"), file("server"));
        case "rpk":
            return Security.rpk(server, shortId, file("own"), file("key"), file("server"));
        default:
            return Security.noSec(server, shortId);
        }
    }

    /** The account by which the device reaches the bootstrap server: a pre-shared key, or none. */
    Security bootstrapSecurity(String server) {
        if (!arguments.containsKey("psk")) {
            return Security.noSecBootstrap(server);
        }
        String[] parts = arguments.get("psk").split(":", 2);
        return Security.pskBootstrap(server, bytes(parts[0]), bytes(parts[1]));
    }

    void configure(Configuration configuration) {
        if (arguments.containsKey("suite")) {
            configuration.set(DtlsConfig.DTLS_RECOMMENDED_CIPHER_SUITES_ONLY, false);
            configuration.set(DtlsConfig.DTLS_CIPHER_SUITES, List.of(CipherSuite.valueOf(arguments.get("suite"))));
        }
        if (arguments.containsKey("cid")) {
            configuration.set(DtlsConfig.DTLS_CONNECTION_ID_LENGTH, Integer.valueOf(arguments.get("cid")));
        }
    }

    private byte[] file(String name) throws IOException {
        return Files.readAllBytes(Path.of(arguments.get(name)));
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
