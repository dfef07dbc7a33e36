import java.util.Date;
import java.util.Map;

import org.eclipse.leshan.client.resource.SimpleInstanceEnabler;
import org.eclipse.leshan.core.link.Link;
import org.eclipse.leshan.core.model.ObjectModel;
import org.eclipse.leshan.core.node.ObjectLink;
import org.eclipse.leshan.core.util.datatype.ULong;

/**
 * The object 26250 of {@code tests/clients/leshan/definitions}. Version 1.0 has one resource, a text; version 2.0 has a
 * resource of each type. The initial values are those that a decoder could get wrong.
 */
public final class Values extends SimpleInstanceEnabler {
    static final int OBJECT = 26250;

    private static final Map<Integer, Object> TEXT = Map.of(0, "42");
    private static final Map<Integer, Object> EACH_TYPE = Map.of(
            // 2^53 + 1 is no double.
            0, 9007199254740993L,
            1, 21.625d,
            2, true,
            3, "Grüße",
            4, new byte[] { 0, (byte) 0xff, 0x10 },
            5, new Date(1717886813000L),
            6, new ObjectLink(3, 0),
            7, Map.of(0, -1L, 5, 70000L),
            8, ULong.valueOf("18446744073709551615"),
            9, new Link[] { new Link("/3/0") });

    @Override
    public void setModel(ObjectModel model) {
        initialValues = model.version.equals("1.0") ? TEXT : EACH_TYPE;
        super.setModel(model);
    }
}
