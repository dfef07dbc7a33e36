import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.function.Consumer;

import org.eclipse.leshan.core.node.codec.DefaultLwM2mDecoder;
import org.eclipse.leshan.core.node.codec.DefaultLwM2mEncoder;
import org.eclipse.leshan.core.node.codec.LwM2mDecoder;
import org.eclipse.leshan.core.node.codec.LwM2mEncoder;
import org.eclipse.leshan.core.request.ContentFormat;

/**
 * Leshan's own encoder and decoder, which report the content format of each payload: {@code encode 112} for what the
 * device sends, {@code decode 112} for what it gets.
 */
final class Formats {
    static LwM2mEncoder encoder(Consumer<String> report) {
        return reporting(LwM2mEncoder.class, new DefaultLwM2mEncoder(), "encode", report);
    }

    static LwM2mDecoder decoder(Consumer<String> report) {
        return reporting(LwM2mDecoder.class, new DefaultLwM2mDecoder(), "decode", report);
    }

    private static <T> T reporting(Class<T> type, T codec, String verb, Consumer<String> report) {
        Class<?>[] interfaces = { type };
        return type.cast(Proxy.newProxyInstance(type.getClassLoader(), interfaces, (proxy, method, arguments) -> {
            if (method.getName().startsWith(verb)) {
                // In each of these methods the format is the second argument.
                report.accept(verb + " " + ((ContentFormat) arguments[1]).getCode());
            }
            try {
                return method.invoke(codec, arguments);
            } catch (InvocationTargetException thrown) {
                throw thrown.getCause();
            }
        }));
    }

    private Formats() {
    }
}
