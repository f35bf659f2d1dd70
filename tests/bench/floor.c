/*
 * floor: accepts every packet of one NFQUEUE and does nothing else.
 *
 * The floor that a userspace firewall is measured against: what halfgate costs
 * above this, in the same run, is what halfgate itself costs. It needs nothing
 * but the kernel's headers and makes no call that it could leave out.
 *
 *   cc -O2 -o floor floor.c
 *   floor QUEUE [--batch N] [--range OCTETS] [--no-gso] [--mark MARK]
 *
 * --batch 1 (default) receives and answers one packet per system call. With
 * more it receives with recvmmsg, and answers all of a batch with one verdict
 * (NFQNL_MSG_VERDICT_BATCH). --mark gives every packet this mark, as rules that wait for
 * a verdict may want it. Ends on SIGINT or SIGTERM and prints what it did.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_BATCH 64
#define OVERHEAD 512

struct config {
	struct nlmsghdr header;
	struct nfgenmsg family;
	char attributes[64];
};

struct verdict {
	struct nlmsghdr header;
	struct nfgenmsg family;
	struct nlattr attribute;
	struct nfqnl_msg_verdict_hdr verdict;
	/* Left out without --mark. */
	struct nlattr mark_attribute;
	uint32_t mark;
};

static volatile sig_atomic_t stop;
static int sock;
static uint16_t queue;

static void on_signal(int signal)
{
	(void)signal;
	stop = 1;
}

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void start_config(struct config *c)
{
	memset(c, 0, sizeof *c);
	c->header.nlmsg_len = NLMSG_LENGTH(sizeof c->family);
	c->header.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG;
	c->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	c->family.version = NFNETLINK_V0;
	c->family.res_id = htons(queue);
}

static void put(struct config *c, int type, const void *value, size_t length)
{
	struct nlattr a = { .nla_type = type, .nla_len = NLA_HDRLEN + length };
	char *at = (char *)c + c->header.nlmsg_len;

	memcpy(at, &a, sizeof a);
	memcpy(at + NLA_HDRLEN, value, length);
	c->header.nlmsg_len += NLA_HDRLEN + NLA_ALIGN(length);
}

/* Sends a configuration and waits for the kernel's word about it. */
static void configure(struct config *c, const char *what)
{
	struct { struct nlmsghdr header; struct nlmsgerr error; char rest[256]; } answer;

	if (send(sock, c, c->header.nlmsg_len, 0) < 0 || recv(sock, &answer, sizeof answer, 0) < 0)
		fail(what);
	if (answer.header.nlmsg_type == NLMSG_ERROR && answer.error.error) {
		errno = -answer.error.error;
		fail(what);
	}
}

/* The packet's id, which the first attribute holds. */
static uint32_t packet_id(const char *datagram)
{
	const struct nlmsghdr *h = (const void *)datagram;
	const struct nlattr *a = (const void *)(datagram + NLMSG_LENGTH(sizeof(struct nfgenmsg)));
	struct nfqnl_msg_packet_hdr packet;

	if (h->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET) || a->nla_type != NFQA_PACKET_HDR)
		return 0;
	memcpy(&packet, a + 1, sizeof packet);
	return packet.packet_id;
}

int main(int argc, char **argv)
{
	static struct mmsghdr headers[MAX_BATCH];
	static struct iovec vectors[MAX_BATCH];
	struct verdict verdict;
	int batch = 1, gso = 1, range = 0xffff, one = 1, room = 64 << 20;
	unsigned long packets = 0, calls = 0, mark = 0;
	size_t length;
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	struct sigaction action = { .sa_handler = on_signal };
	struct config c;

	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--no-gso"))
			gso = 0;
		else if (!strcmp(argv[i], "--batch") && i + 1 < argc)
			batch = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--range") && i + 1 < argc)
			range = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--mark") && i + 1 < argc)
			mark = strtoul(argv[++i], NULL, 0);
		else
			argc = 0;
	}
	if (argc < 2 || batch < 1 || batch > MAX_BATCH || range < 1 || range > 0xffff) {
		fprintf(stderr, "usage: floor QUEUE [--batch 1..%d] [--range 1..65535] [--no-gso] [--mark MARK]\n", MAX_BATCH);
		return 2;
	}
	queue = atoi(argv[1]);
	length = mark ? sizeof(struct verdict) : offsetof(struct verdict, mark_attribute);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);

	sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (sock < 0 || bind(sock, (void *)&address, sizeof address) < 0)
		fail("netlink");
	start_config(&c);
	put(&c, NFQA_CFG_CMD, &(struct nfqnl_msg_config_cmd){ .command = NFQNL_CFG_CMD_BIND },
	    sizeof(struct nfqnl_msg_config_cmd));
	configure(&c, "bind");
	start_config(&c);
	put(&c, NFQA_CFG_PARAMS,
	    &(struct nfqnl_msg_config_params){ .copy_range = htonl(range), .copy_mode = NFQNL_COPY_PACKET }, 5);
	put(&c, NFQA_CFG_QUEUE_MAXLEN, &(uint32_t){ htonl(20000) }, 4);
	put(&c, NFQA_CFG_FLAGS, &(uint32_t){ htonl(gso ? NFQA_CFG_F_GSO : 0) }, 4);
	put(&c, NFQA_CFG_MASK, &(uint32_t){ htonl(NFQA_CFG_F_GSO) }, 4);
	configure(&c, "configure");
	if (setsockopt(sock, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof one) < 0 ||
	    setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0)
		fail("setsockopt");

	verdict = (struct verdict){
		.header = { .nlmsg_len = length, .nlmsg_flags = NLM_F_REQUEST,
			    .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 |
				  (batch > 1 ? NFQNL_MSG_VERDICT_BATCH : NFQNL_MSG_VERDICT) },
		.family = { .version = NFNETLINK_V0, .res_id = htons(queue) },
		.attribute = { .nla_type = NFQA_VERDICT_HDR,
			       .nla_len = NLA_HDRLEN + sizeof(struct nfqnl_msg_verdict_hdr) },
		.verdict = { .verdict = htonl(NF_ACCEPT) },
		.mark_attribute = { .nla_type = NFQA_MARK, .nla_len = NLA_HDRLEN + 4 },
		.mark = htonl(mark),
	};
	for (int i = 0; i < batch; i++) {
		vectors[i] = (struct iovec){ malloc(range + OVERHEAD), range + OVERHEAD };
		if (!vectors[i].iov_base)
			fail("memory");
		headers[i].msg_hdr.msg_iov = &vectors[i];
		headers[i].msg_hdr.msg_iovlen = 1;
	}
	while (!stop) {
		int received, answers = 0;

		if (batch > 1)
			received = recvmmsg(sock, headers, batch, MSG_WAITFORONE, NULL);
		else
			received = recv(sock, vectors[0].iov_base, vectors[0].iov_len, 0) < 0 ? -1 : 1;
		calls++;
		for (int i = 0; i < received; i++) {
			uint32_t id = packet_id(vectors[i].iov_base);

			if (id) {
				/* Packets come in the order of their numbers; one verdict is for all up to this. */
				verdict.verdict.id = id;
				answers++;
			}
		}
		packets += answers;
		if (answers) {
			send(sock, &verdict, length, 0);
			calls++;
		}
	}
	printf("packets %lu system calls %lu\n", packets, calls);
	return 0;
}
