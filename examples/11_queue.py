"""Producer and consumer: a bounded queue passes work on and slows a fast producer down."""

import asyncio


async def produce(queue, count, log):
    for number in range(count):
        await queue.put(number)  # waits while the queue is full
        log.append(queue.qsize())
    print("producer: all put")


async def consume(queue, results):
    while True:
        number = await queue.get()
        await asyncio.sleep(0.001)
        results.append(number * number)
        queue.task_done()


async def main():
    queue, results, log = asyncio.Queue(maxsize=3), [], []
    consumers = [asyncio.create_task(consume(queue, results)) for _ in range(2)]
    await produce(queue, 10, log)
    await queue.join()  # until task_done() was called for each item
    print("squares:", *sorted(results))
    print("never more than 3 waiting:", max(log) <= 3)

    # The consumers wait for more work that will not come.
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    print("consumers stopped:", all(consumer.cancelled() for consumer in consumers))


asyncio.run(main())
