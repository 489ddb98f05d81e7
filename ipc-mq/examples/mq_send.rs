//! Sends a message, whether or not anybody is there to receive it.
use ipc_mq::Sender;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tx = ipc_mq::sender("greetings")?;
    tx.send(b"hello")?;
    Ok(())
}
