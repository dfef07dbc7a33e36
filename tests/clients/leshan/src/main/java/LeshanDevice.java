import java.io.BufferedReader;
import java.io.File;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

import org.eclipse.californium.core.CoapClient;
import org.eclipse.californium.core.CoapResponse;
import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.core.network.CoapEndpoint;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.leshan.client.LeshanClient;
import org.eclipse.leshan.client.LeshanClientBuilder;
import org.eclipse.leshan.client.californium.endpoint.CaliforniumClientEndpointsProvider;
import org.eclipse.leshan.client.californium.endpoint.coap.CoapClientProtocolProvider;
import org.eclipse.leshan.client.californium.endpoint.coaps.CoapsClientProtocolProvider;
import org.eclipse.leshan.client.engine.DefaultRegistrationEngineFactory;
import org.eclipse.leshan.client.object.Device;
import org.eclipse.leshan.client.object.Server;
import org.eclipse.leshan.client.observer.LwM2mClientObserverAdapter;
import org.eclipse.leshan.client.resource.ObjectsInitializer;
import org.eclipse.leshan.client.resource.SimpleInstanceEnabler;
import org.eclipse.leshan.client.servers.LwM2mServer;
import org.eclipse.leshan.core.ResponseCode;
import org.eclipse.leshan.core.model.ObjectLoader;
import org.eclipse.leshan.core.model.ObjectModel;
import org.eclipse.leshan.core.model.StaticModel;
import org.eclipse.leshan.core.node.LwM2mPath;
import org.eclipse.leshan.core.node.LwM2mResource;
import org.eclipse.leshan.core.request.BootstrapRequest;
import org.eclipse.leshan.core.request.ContentFormat;
import org.eclipse.leshan.core.request.DeregisterRequest;
import org.eclipse.leshan.core.request.RegisterRequest;
import org.eclipse.leshan.core.request.UpdateRequest;
import org.eclipse.leshan.core.request.argument.Arguments;
import org.eclipse.leshan.core.response.ExecuteResponse;
import org.eclipse.leshan.core.response.WriteResponse;

/**
 * A device on Leshan's client library. Lines on its input drive the device:
 * <ul>
 * <li>{@code set VALUE} changes the temperature (3303/0/5700).
 * <li>{@code collect PATH TIME} keeps the present value at the path for the next Send, with this time (ISO 8601).
 * Without {@code TIME} the value has no time.
 * <li>{@code send json} and {@code send cbor} send the collected values.
 * <li>{@code update} updates the registration.
 * <li>{@code quit} de-registers and ends.
 * </ul>
 * The device prints a line for each event, and for the format of each payload ({@link Formats}); for a firmware image
 * that is written to 5/0/0, or fetched from the URI in 5/0/1, its length and its SHA-256.
 * <p>
 * Arguments: the server's URI, the endpoint name, the folder of object definitions, and options {@code KEY=VALUE}:
 * {@code values=FILE} is the definition of {@link Values} in the version that the device has (without this option the
 * device has no such object); {@code bootstrap=FORMAT} makes the server the bootstrap server, and names the format
 * that the device prefers there; the others are those of {@link Dtls}.
 */
public final class LeshanDevice {
    private static final int LIFETIME = 300;
    private static final int SENSOR_VALUE = 5700;
    /** Californium takes 8 KiB in blocks, unless it is told. */
    private static final int LARGEST_BODY = 4 * 1024 * 1024;
    private static final long FETCH_MILLISECONDS = 60_000;

    public static void main(String[] arguments) throws Exception {
        String server = arguments[0];
        String endpoint = arguments[1];
        String models = arguments[2];
        Map<String, String> options = options(Arrays.asList(arguments).subList(3, arguments.length));
        Dtls dtls = new Dtls(options);

        List<ObjectModel> definitions = new ArrayList<>(ObjectLoader.loadDefault());
        for (ObjectModel definition : ObjectLoader.loadObjectsFromDir(new File(models), false)) {
            if (definition.id == 3303) {
                definitions.add(definition);
            }
        }
        if (options.containsKey("values")) {
            definitions.addAll(definitionIn(Path.of(options.get("values"))));
        }
        Thermometer thermometer = new Thermometer();
        ObjectsInitializer objects = new ObjectsInitializer(new StaticModel(definitions));
        if (options.containsKey("bootstrap")) {
            objects.setInstancesForObject(0, dtls.bootstrapSecurity(server));
            objects.setClassForObject(1, Server.class);
        } else {
            objects.setInstancesForObject(0, dtls.security(server, 101));
            objects.setInstancesForObject(1, new Server(101, LIFETIME));
        }
        objects.setInstancesForObject(3, new RebootableDevice());
        objects.setInstancesForObject(3303, thermometer);
        if (options.containsKey("values")) {
            objects.setInstancesForObject(Values.OBJECT, new Values(), new Values());
        }
        History history = new History();

        CaliforniumClientEndpointsProvider.Builder endpoints = new CaliforniumClientEndpointsProvider.Builder(
                new CoapClientProtocolProvider(), new CoapsClientProtocolProvider());
        Configuration coap = endpoints.createDefaultConfiguration();
        coap.set(CoapConfig.MAX_RESOURCE_BODY_SIZE, LARGEST_BODY);
        dtls.configure(coap);
        objects.setInstancesForObject(5, new Firmware(coap));
        LeshanClientBuilder builder = new LeshanClientBuilder(endpoint);
        if (options.containsKey("bootstrap")) {
            DefaultRegistrationEngineFactory engine = new DefaultRegistrationEngineFactory();
            engine.setPreferredContentFormat(ContentFormat.fromName(options.get("bootstrap")));
            builder.setRegistrationEngineFactory(engine);
        }
        LeshanClient client = builder
                .setObjects(objects.createAll())
                .setDataSenders(history)
                .setEncoder(Formats.encoder(LeshanDevice::report))
                .setDecoder(Formats.decoder(LeshanDevice::report))
                .setEndpointsProviders(endpoints.setConfiguration(coap).build())
                .build();
        client.addObserver(new Reporter());
        client.start();

        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null && !line.equals("quit"); line = input.readLine()) {
            if (line.equals("update")) {
                client.triggerRegistrationUpdate();
            } else if (line.startsWith("set ")) {
                thermometer.set(Double.parseDouble(line.substring(4)));
            } else if (line.startsWith("collect ")) {
                String[] words = line.split(" ");
                history.collect(new LwM2mPath(words[1]), words.length > 2 ? Instant.parse(words[2]) : null);
            } else if (line.equals("send json")) {
                report(history.send(client, ContentFormat.SENML_JSON));
            } else if (line.equals("send cbor")) {
                report(history.send(client, ContentFormat.SENML_CBOR));
            }
        }
        client.destroy(true);
    }

    /** Arguments of the form {@code KEY=VALUE}. */
    private static Map<String, String> options(List<String> arguments) {
        return arguments.stream()
                .map(argument -> argument.split("=", 2))
                .collect(Collectors.toMap(parts -> parts[0], parts -> parts[1]));
    }

    private static List<ObjectModel> definitionIn(Path file) throws Exception {
        try (InputStream definition = Files.newInputStream(file)) {
            return ObjectLoader.loadDdfFile(definition, file.toString());
        }
    }

    private static void report(String line) {
        System.out.println(line);
        System.out.flush();
    }

    public static final class Thermometer extends SimpleInstanceEnabler {
        public Thermometer() {
            // The id is the object's business: a server may create more of these.
            initialValues = Map.of(SENSOR_VALUE, 20.5d);
        }

        void set(double value) {
            fireResourcesChange(applyValues(Map.of(SENSOR_VALUE, value)));
        }
    }

    /** Leshan's own device object, that tells what is done to it. */
    public static final class RebootableDevice extends Device {
        public RebootableDevice() {
            super("Eclipse Leshan", "model 500", "LT-500-000-0001");
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            report("written " + resource + " " + value.getValue());
            return super.write(server, replace, resource, value);
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            report("executed " + resource);
            return resource == 4 ? ExecuteResponse.success() : super.execute(server, resource, arguments);
        }
    }

    /** Firmware Update (object 5): it keeps no image, and tells what came. An update takes no time. */
    public static final class Firmware extends SimpleInstanceEnabler {
        private static final int PACKAGE = 0;
        private static final int PACKAGE_URI = 1;
        private static final int UPDATE = 2;
        private static final int STATE = 3;
        private static final int UPDATE_RESULT = 5;
        private static final int PROTOCOLS = 8;
        private static final int DELIVERY_METHOD = 9;
        private static final long IDLE = 0;
        private static final long DOWNLOADING = 1;
        private static final long DOWNLOADED = 2;
        private static final long UPDATED = 1;
        private static final long CONNECTION_LOST = 4;
        private static final long COAP = 0;
        private static final long BOTH = 2;

        private final Configuration coap;

        /** Leshan wants one without arguments, for instances that a server creates. */
        public Firmware() {
            this(Configuration.createStandardWithoutFile());
        }

        public Firmware(Configuration coap) {
            this.coap = coap;
            initialValues = Map.of(PACKAGE_URI, "", STATE, IDLE, UPDATE_RESULT, 0L, PROTOCOLS, Map.of(0, COAP),
                    DELIVERY_METHOD, BOTH);
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            if (resource == PACKAGE_URI) {
                String uri = (String) value.getValue();
                applyValues(Map.of(PACKAGE_URI, uri));
                change(uri.startsWith("coap://") ? DOWNLOADING : IDLE, 0);
                if (uri.startsWith("coap://")) {
                    new Thread(() -> fetch(uri)).start();
                }
                return WriteResponse.success();
            }
            if (resource != PACKAGE) {
                return super.write(server, replace, resource, value);
            }
            byte[] image = (byte[]) value.getValue();
            if (image.length == 1 && image[0] == 0) {
                change(IDLE, 0);
                return WriteResponse.success();
            }
            arrived(image);
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            if (resource != UPDATE) {
                return super.execute(server, resource, arguments);
            }
            report("executed 5/0/2");
            change(IDLE, UPDATED);
            return ExecuteResponse.success();
        }

        /** Californium asks for one block after the other. */
        private void fetch(String uri) {
            CoapEndpoint endpoint = CoapEndpoint.builder().setConfiguration(coap).build();
            CoapClient client = new CoapClient(uri);
            client.setEndpoint(endpoint);
            client.setTimeout(FETCH_MILLISECONDS);
            try {
                CoapResponse response = client.get();
                if (response != null && response.isSuccess()) {
                    arrived(response.getPayload());
                } else {
                    report("no image: " + (response == null ? "no answer" : response.getCode()));
                    change(IDLE, CONNECTION_LOST);
                }
            } catch (Exception error) {
                report("no image: " + error);
                change(IDLE, CONNECTION_LOST);
            } finally {
                client.shutdown();
                endpoint.destroy();
            }
        }

        private void arrived(byte[] image) {
            report("image of " + image.length + " bytes, SHA-256 " + sha256(image));
            change(DOWNLOADED, 0);
        }

        private void change(long state, long result) {
            fireResourcesChange(applyValues(Map.of(STATE, state, UPDATE_RESULT, result)));
        }
    }

    private static String sha256(byte[] bytes) {
        try {
            StringBuilder digits = new StringBuilder();
            for (byte digit : MessageDigest.getInstance("SHA-256").digest(bytes)) {
                digits.append(String.format("%02x", digit));
            }
            return digits.toString();
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException("every Java has SHA-256", impossible);
        }
    }

    private static final class Reporter extends LwM2mClientObserverAdapter {
        @Override
        public void onBootstrapSuccess(LwM2mServer server, BootstrapRequest request) {
            report("bootstrapped");
        }

        @Override
        public void onBootstrapFailure(LwM2mServer server, BootstrapRequest request, ResponseCode code, String reason,
                Exception cause) {
            report("not bootstrapped " + code + " " + reason);
        }

        @Override
        public void onRegistrationSuccess(LwM2mServer server, RegisterRequest request, String registration) {
            report("registered " + registration);
        }

        @Override
        public void onUpdateSuccess(LwM2mServer server, UpdateRequest request) {
            report("updated");
        }

        @Override
        public void onDeregistrationSuccess(LwM2mServer server, DeregisterRequest request) {
            report("deregistered");
        }
    }

    private LeshanDevice() {
    }
}
