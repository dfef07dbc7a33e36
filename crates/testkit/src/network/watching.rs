//! Watches datagrams and notes what they promise: which notifications were acknowledged, and which the gateway took.

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Header, Kind, Message};

use super::{DeviceNumber, Network, OutstandingDatagram};

impl Network {
    /// Keeps the facts about a datagram of a device that tests ask for.
    pub(super) fn watch(&mut self, number: DeviceNumber, datagram: &[u8]) {
        let message = Message::decode(datagram).expect("devices send messages");
        self.watch_send(number, &message);
        let attached = &mut self.devices[number];
        let Message { kind, code, id, token, options, .. } = message;
        if kind == Kind::Confirmable {
            let first = || OutstandingDatagram { datagram: datagram.to_vec(), arrived: false };
            attached.outstanding.entry(id).or_insert_with(first);
        }
        if kind == Kind::Confirmable && code == Code::CONTENT {
            let observe = options.uint(number::OBSERVE).expect("a number").expect("a notification has a number");
            if attached.unconfirmed.insert(id, (token, observe)) != Some((token, observe)) {
                attached.notifications += 1;
            }
        }
        let registers = code == Code::POST && options.all(number::URI_PATH).eq([b"rd".as_slice()]);
        let register = (id, attached.address);
        if registers && attached.last_register.replace(register) != Some(register) {
            attached.registers += 1;
        }
    }

    /// Keeps the facts about a datagram of the core that tests ask for.
    pub(super) fn watch_gateway(&mut self, to: Peer, datagram: &[u8]) {
        self.watch_answer(datagram);
        // Most are neither, and a thousand devices get many.
        let code = datagram.get(1).copied().map(Code);
        let (true, Some(&number)) = (matches!(code, Some(Code::GET | Code::EMPTY)), self.by_address.get(&to)) else {
            return;
        };
        let message = Message::decode(datagram).expect("the gateway sends messages");
        let attached = &mut self.devices[number];
        if message.code == Code::GET && message.options.uint(number::OBSERVE) == Ok(Some(0)) {
            let path = message.options.texts(number::URI_PATH).expect("text");
            let path = path.iter().map(|segment| format!("/{segment}")).collect();
            attached.observed.insert(message.token, path);
        }
        if message == Message::empty(Kind::Reset, message.id)
            && let Some(outstanding) = attached.outstanding.get(&message.id)
            && outstanding.arrived
            && Header::of(&outstanding.datagram).is_some_and(|sent| sent.code.is_response())
        {
            self.resets_of_received.push(number);
        }
        if message == Message::empty(Kind::Acknowledgement, message.id)
            && let Some((token, observe)) = attached.unconfirmed.get(&message.id)
            && let Some(path) = attached.observed.get(token)
        {
            let notification = (number, path.clone(), *observe);
            if self.asks_the_broker && !self.taken.contains(&notification) {
                self.acknowledged_untaken.push(notification);
            }
        }
    }

    /// Notes that a message of a device has arrived. A forged one with its id has other bytes.
    pub(super) fn arrive(&mut self, from: Peer, datagram: &[u8]) {
        let Some(&number) = self.by_address.get(&from) else { return };
        let Some(header) = Header::of(datagram) else { return };
        if let Some(outstanding) = self.devices[number].outstanding.get_mut(&header.id) {
            outstanding.arrived |= outstanding.datagram == datagram;
        }
    }

    /// Ends what the core acknowledged, answered or reset.
    fn conclude(&mut self, number: DeviceNumber, message: &Message) {
        let outstanding = &mut self.devices[number].outstanding;
        let Some(sent) = outstanding.get(&message.id).and_then(|sent| Message::decode(&sent.datagram).ok()) else {
            return;
        };
        let concluded = match message.kind {
            Kind::Acknowledgement => message.code == Code::EMPTY || message.token == sent.token,
            Kind::Reset => true,
            Kind::Confirmable | Kind::NonConfirmable => false,
        };
        if concluded && outstanding.remove(&message.id).is_some() && message.kind == Kind::Reset {
            self.resets.push(number);
        }
    }

    pub(super) fn confirm(&mut self, number: DeviceNumber, datagram: &[u8]) {
        let message = Message::decode(datagram).expect("the gateway sends messages");
        self.conclude(number, &message);
        let attached = &mut self.devices[number];
        if message == Message::empty(Kind::Acknowledgement, message.id)
            && let Some(notification) = attached.unconfirmed.remove(&message.id)
        {
            attached.confirmed.push(notification);
        }
    }
}
