// SPDX-License-Identifier: Apache-2.0
//
// A gRPC program of Google's own C++ library, which knows of a session only what session.proto says.
//
//   link_stock call ADDRESS TOKEN SESSION TABLE [CA]   frames of stdin are sent, and those that come
//                                                      are put to stdout: u32 bytes, then the frame
//   link_stock serve TOKEN                             gives frames back; says `ready PORT`
//
// After the last frame of a call: u32 0xffffffff, u32 status, u32 bytes, the status' message.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "harp/api/v1/session.grpc.pb.h"

using harp::api::v1::Frame;
using harp::api::v1::GpuSession;

static bool read_all(void *data, size_t bytes)
{
    return fread(data, 1, bytes, stdin) == bytes;
}

static void write_u32(uint32_t value)
{
    fwrite(&value, 1, sizeof value, stdout);
}

static int call(char **argv, const char *ca)
{
    auto credentials = grpc::InsecureChannelCredentials();
    if (ca != nullptr) {
        std::ostringstream pem;
        pem << std::ifstream(ca).rdbuf();
        grpc::SslCredentialsOptions options;
        options.pem_root_certs = pem.str();
        credentials = grpc::SslCredentials(options);
    }
    auto stub = GpuSession::NewStub(grpc::CreateChannel(argv[0], credentials));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context.AddMetadata("authorization", std::string("Bearer ") + argv[1]);
    context.AddMetadata("harp-session", argv[2]);
    context.AddMetadata("harp-table", argv[3]);
    auto stream = stub->Session(&context);
    std::thread reader([&] {
        Frame frame;
        while (stream->Read(&frame)) {
            std::string bytes = frame.SerializeAsString();
            write_u32(static_cast<uint32_t>(bytes.size()));
            fwrite(bytes.data(), 1, bytes.size(), stdout);
            fflush(stdout);
        }
    });
    uint32_t bytes;
    while (read_all(&bytes, sizeof bytes)) {
        std::string data(bytes, '\0');
        Frame frame;
        if (!read_all(&data[0], bytes) || !frame.ParseFromString(data) || !stream->Write(frame))
            break;
    }
    stream->WritesDone();
    reader.join();
    grpc::Status status = stream->Finish();
    write_u32(0xffffffffu);
    write_u32(static_cast<uint32_t>(status.error_code()));
    write_u32(static_cast<uint32_t>(status.error_message().size()));
    fwrite(status.error_message().data(), 1, status.error_message().size(), stdout);
    return 0;
}

class Echo final : public GpuSession::Service {
  public:
    explicit Echo(const char *token) : bearer_(std::string("Bearer ") + token) {}

    grpc::Status Session(grpc::ServerContext *context,
                         grpc::ServerReaderWriter<Frame, Frame> *stream) override
    {
        return run(context, stream);
    }

    grpc::Status Bulk(grpc::ServerContext *context,
                      grpc::ServerReaderWriter<Frame, Frame> *stream) override
    {
        return run(context, stream);
    }

  private:
    grpc::Status run(grpc::ServerContext *context, grpc::ServerReaderWriter<Frame, Frame> *stream)
    {
        const auto &told = context->client_metadata();
        auto token = told.find("authorization");
        context->AddInitialMetadata("harp-table", "their table");
        if (token == told.end() || token->second != bearer_)
            return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "bad token");
        Frame frame;
        for (uint64_t seq = 1; stream->Read(&frame); seq++) {
            frame.set_ack(frame.seq());
            frame.set_seq(seq);
            frame.set_flags(frame.flags() | harp::api::v1::FRAME_FLAG_REPLY);
            if (!stream->Write(frame))
                break;
        }
        return grpc::Status::OK;
    }

    std::string bearer_;
};

static int serve(const char *token)
{
    Echo service(token);
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service);
    auto server = builder.BuildAndStart();
    printf("ready %d\n", port);
    fflush(stdout);
    char end;
    while (read_all(&end, 1)) // until its stdin is closed
        ;
    server->Shutdown(std::chrono::system_clock::now());
    return server != nullptr ? 0 : 1;
}

int main(int argc, char **argv)
{
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "call" && (argc == 6 || argc == 7))
        return call(argv + 2, argc == 7 ? argv[6] : nullptr);
    return what == "serve" && argc == 3 ? serve(argv[2]) : 2;
}
