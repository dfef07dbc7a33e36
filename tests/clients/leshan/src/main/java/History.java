import java.time.Instant;
import java.util.List;

import org.eclipse.leshan.client.LeshanClient;
import org.eclipse.leshan.client.send.DataSender;
import org.eclipse.leshan.client.send.DataSenderManager;
import org.eclipse.leshan.client.servers.LwM2mServer;
import org.eclipse.leshan.core.node.LwM2mPath;
import org.eclipse.leshan.core.node.TimestampedLwM2mNodes;
import org.eclipse.leshan.core.request.ContentFormat;

/**
 * Collects values with their times, and sends them with the Send operation. Unlike Leshan's {@code ManualDataSender} it
 * leaves the times to the caller, so that a test knows them.
 */
final class History implements DataSender {
    private static final long TIMEOUT_MILLISECONDS = 20_000;

    private TimestampedLwM2mNodes.Builder collected = TimestampedLwM2mNodes.builder();
    private DataSenderManager manager;
    private int sends;

    /** Adds the present value at the path, with this time, or with none when it is null. */
    void collect(LwM2mPath path, Instant time) {
        collected.addNodes(time, manager.getCurrentValues(LwM2mServer.SYSTEM, List.of(path)));
    }

    /** Sends what was collected, and returns a line with the number of the Send and the code of its answer. */
    String send(LeshanClient client, ContentFormat format) throws InterruptedException {
        TimestampedLwM2mNodes values = collected.build();
        collected = TimestampedLwM2mNodes.builder();
        LwM2mServer server = client.getRegisteredServers().values().iterator().next();
        sends += 1;
        return "send " + sends + " answered "
                + manager.sendData(server, format, values, TIMEOUT_MILLISECONDS).getCode();
    }

    @Override
    public void setDataSenderManager(DataSenderManager manager) {
        this.manager = manager;
    }

    @Override
    public String getName() {
        return "history";
    }
}
