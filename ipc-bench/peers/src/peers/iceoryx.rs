//! iceoryx2: a publisher and a subscriber each way, samples loaned and written in place,
//! nothing dropped, polled: <https://docs.rs/iceoryx2>, "publish-subscribe, dynamic data".

use crate::link::{Fallible, Link, Payload, Spec, Touch};
use iceoryx2::{
    port::{publisher::Publisher, subscriber::Subscriber},
    prelude::*,
};
use std::hint::spin_loop;

pub(crate) struct Iceoryx {
    publisher: Publisher<ipc::Service, [u8], ()>,
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    payload: Payload,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    _node: Node<ipc::Service>,
}

impl Iceoryx {
    pub(crate) fn attach(spec: &Spec) -> Fallible<Self> {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        let directory = spec.directory.to_str().ok_or("the directory's name isn't UTF-8")?;
        config.global.set_root_path(&Path::new(directory.as_bytes())?);
        config.global.prefix = FileName::new(format!("{}-", spec.prefix).as_bytes())?;
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()?;
        let service = |direction: &str| -> Fallible<_> {
            Ok(node
                .service_builder(&direction.try_into()?)
                .publish_subscribe::<[u8]>()
                .max_publishers(1)
                .max_subscribers(1)
                .history_size(0)
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(spec.messages_in_flight())
                .open_or_create()?)
        };
        let [out, back] = spec.directions();
        let publisher = service(out)?
            .publisher_builder()
            .initial_max_slice_len(spec.payload.len_bytes)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let subscriber = service(back)?.subscriber_builder().create()?;
        let buffer = || vec![0; spec.payload.len_bytes];
        Ok(Self {
            publisher,
            subscriber,
            payload: spec.payload,
            outgoing: buffer(),
            incoming: buffer(),
            _node: node,
        })
    }
}

impl Link for Iceoryx {
    #[inline]
    fn send(&mut self, number: u64) -> Fallible<()> {
        let mut sample = self.publisher.loan_slice_uninit(self.payload.len_bytes)?;
        if self.payload.touch == Touch::Copied {
            self.payload.write(&mut self.outgoing, number);
            sample.write_from_slice(&self.outgoing).send()?;
            return Ok(());
        }
        let space = sample.payload_mut();
        // SAFETY: the bytes are this sample's alone until it is sent, and any bytes are good
        // u8; those left as they are hold what was there in the mapped, zeroed segment.
        let space = unsafe { std::slice::from_raw_parts_mut(space.as_mut_ptr().cast(), space.len()) };
        self.payload.write(space, number);
        // SAFETY: as above: every byte of a mapped segment is some u8.
        unsafe { sample.assume_init() }.send()?;
        Ok(())
    }

    #[inline]
    fn receive(&mut self, number: u64) -> Fallible<()> {
        loop {
            if let Some(sample) = self.subscriber.receive()? {
                if self.payload.touch != Touch::Copied {
                    return self.payload.check(sample.payload(), number);
                }
                self.incoming.copy_from_slice(sample.payload());
                return self.payload.check(&self.incoming, number);
            }
            spin_loop();
        }
    }
}
